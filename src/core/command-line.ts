/** How a person's message is read as a command: as phones and habits write it. */
import { commands } from "./commands.ts";
import { toPlain } from "./consent.ts";

/** Other names that people try; they count where there is the command. */
const aliases: ReadonlyMap<string, string> = new Map(
  Object.entries({
    new: "clear reset",
    help: "start commands",
    stop: "cancel",
    model: "models",
    effort: "think",
    usage: "cost",
    status: "whoami",
    sessions: "history chats",
    reminders: "reminder",
    retry: "again regenerate",
    title: "rename",
    forget: "delete",
    approve: "yes y ok",
    deny: "no n",
  }).flatMap(([name, others]) => others.split(" ").map((other) => [other, name])),
);

export type CommandLine = { readonly name: string; readonly argument: string };

const blank = /^[\s\p{Cf}\p{Variation_Selector}]+/u;
/** Behind a command's name: the name of an account, then punctuation and pictures, but no path. */
const decoration = /^(?:@[\w.-]*)?[^\p{L}\p{N}/\\]*$/u;
/** So many words behind a command that takes none are a question: `/help me with my homework`. */
const sentence = /^(?:\S+\s+){3}\S/u;
const urgent = new Set(["stop", "skip"]);

/**
 * A message as a command, or null where it is none: a path, or a sentence that begins with a word that is no command's name.
 * Such a word alone is a command that there is not: the person is to hear of the nearest.
 */
export function parseCommand(text: string): CommandLine | null {
  const said = text.replace(blank, "");
  // Typed by hand, where the chat's own mention was not used.
  const addressed = /^@[\w.-]+\s+(?=[/／])/u.exec(said)?.[0] ?? "";
  const [, head = "", rest = ""] = /^[/／](\S+)\s*(.*)$/su.exec(said.slice(addressed.length)) ?? [];
  const [, word = "", after = ""] = /^([a-z][a-z_]*)(.*)$/su.exec(toPlain(head)) ?? [];
  if (word === "" || !decoration.test(after)) return null;
  const name = aliases.get(word) ?? word;
  const known = commands.find((command) => command.name === name);
  const words = rest.replace(blank, "").trim();
  const argument = name === "title" || !decoration.test(words) ? words : "";
  if (known)
    return known.use === `/${name}` && sentence.test(argument) && !urgent.has(name) ? null : { name, argument };
  if (word === "always") return { name: "approve", argument: word };
  return argument === "" && addressed === "" ? { name: word, argument } : null;
}
