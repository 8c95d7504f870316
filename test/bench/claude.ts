/** The Claude double in a process of its own, so that its work is not the program's: says where it is, and lives until it is killed. */
import { startClaudeDouble } from "../doubles/claude.ts";

const { url, apiKey } = await startClaudeDouble({ script: () => [{ say: "pong" }] });
console.log(JSON.stringify({ url, apiKey }));
