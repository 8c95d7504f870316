/** How a person's message is read as a command: as phones and habits write it. */
import { commands } from "./commands.ts";
import { toPlain } from "./consent.ts";

/** Other names that people try; they count where there is the command. */
const aliases: ReadonlyMap<string, string> = new Map([
  ["clear", "new"],
  ["reset", "new"],
  ["start", "help"],
  ["cancel", "stop"],
  ["yes", "approve"],
  ["no", "deny"],
  ["models", "model"],
  ["think", "effort"],
  ["cost", "usage"],
  ["whoami", "status"],
  ["reminder", "reminders"],
]);

export type CommandLine = { readonly name: string; readonly argument: string };

const blank = /^[\s\p{Cf}\p{Variation_Selector}]+/u;
/** Behind a command's name: the name of an account, then punctuation and pictures, but no path. */
const decoration = /^(?:@[\w.-]*)?[^\p{L}\p{N}/\\]*$/u;

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
  const argument = rest.replace(blank, "").trim();
  if (known) return { name, argument: name === "title" || !decoration.test(argument) ? argument : "" };
  return argument === "" && addressed === "" ? { name: word, argument } : null;
}
