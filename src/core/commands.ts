/** The commands of the chat: what they are called, and how a person's message is read as one, as phones and habits write it. */
import { toPlain } from "./consent.ts";

/**
 * The commands by group, the first needed on top; each fits a line of a phone (40 columns). `also`: other names that people try.
 */
const groups = [
  [
    { name: "new", use: "/new [text]", what: "start a fresh conversation", also: "clear reset" },
    { name: "stop", use: "/stop", what: "stop the answer at work", also: "cancel" },
    { name: "retry", use: "/retry", what: "ask the last message again", also: "again regenerate" },
    { name: "status", use: "/status", what: "does everything work?", also: "whoami" },
    { name: "help", use: "/help", what: "this list", also: "start commands" },
    { name: "privacy", use: "/privacy", what: "who learns what, and the rest" },
  ],
  [
    { name: "sessions", use: "/sessions", what: "earlier conversations", also: "history chats" },
    { name: "resume", use: "/resume N", what: "go back to number N" },
    { name: "title", use: "/title [text]", what: "show or set the title", also: "rename" },
    { name: "export", use: "/export", what: "this conversation as a file" },
    { name: "forget", use: "/forget [all]", what: "delete the conversation", also: "delete" },
    { name: "skip", use: "/skip", what: "drop what is not answered yet" },
    { name: "reminders", use: "/reminders", what: "what is set; off N ends one", also: "reminder" },
  ],
  [
    { name: "model", use: "/model [id]", what: "show or choose the model", also: "models" },
    { name: "effort", use: "/effort [level]", what: "how hard Claude thinks", also: "think" },
    { name: "verbose", use: "/verbose", what: "show or hide Claude's steps" },
    { name: "usage", use: "/usage", what: "tokens and cost", also: "cost" },
  ],
  [
    { name: "approve", use: "/approve [always]", what: "say yes", also: "yes y ok" },
    { name: "deny", use: "/deny [why]", what: "say no", also: "no n" },
    { name: "ask", use: "/ask", what: "be asked for every tool again" },
    { name: "projects", use: "/projects", what: "folders for Claude" },
    { name: "project", use: "/project NAME", what: "work on one; off ends" },
    { name: "diff", use: "/diff", what: "what was changed there" },
    { name: "undo", use: "/undo", what: "take the last changes back" },
  ],
  [
    { name: "allow", use: "/allow [who]", what: "let a person or group ask" },
    { name: "disallow", use: "/disallow [who]", what: "take that back" },
    { name: "people", use: "/people", what: "who may ask" },
    { name: "groups", use: "/groups", what: "in which groups" },
  ],
] as const;

export type Command = (typeof groups)[number][number];
export const commands: readonly Command[] = groups.flat();
export type CommandName = Command["name"];

/** The text of `/help`: one command a line. */
export const commandHelp = (): string =>
  groups.map((group) => group.map(({ use, what }) => `${use} – ${what}`).join("\n")).join("\n\n");

const aliases: ReadonlyMap<string, string> = new Map(
  commands.flatMap((command) =>
    "also" in command ? command.also.split(" ").map((other) => [other, command.name] as const) : [],
  ),
);

export type CommandLine = { readonly name: string; readonly argument: string };

const blank = /^[\s\p{Cf}\p{Variation_Selector}]+/u;
/** Behind a command's name: the name of an account, then punctuation and pictures, but no path. */
const decoration = /^(?:@[\w.-]*)?[^\p{L}\p{N}/\\]*$/u;
/** Four words or more behind a command that takes none are a question: `/help me with my homework`. */
const sentence = /^(?:\S+\s+){3}\S/u;
const urgent = new Set(["stop", "skip"]);

/**
 * A message as a command, or null where it is none: a path, or a sentence that begins with a word that is no command's name. Such a word
 * alone is returned as a command that does not exist, so that the person hears of the nearest one.
 */
export function parseCommand(text: string): CommandLine | null {
  const said = text.replace(blank, "");
  // The name of the account, typed by hand in place of the chat's own mention.
  const addressed = /^@[\w.-]+\s+(?=[/／])/u.exec(said)?.[0] ?? "";
  const [, head = "", rest = ""] = /^[/／](\S+)\s*(.*)$/su.exec(said.slice(addressed.length)) ?? [];
  const [, word = "", after = ""] = /^([a-z]+(?:[_-][a-z]+)*)(.*)$/su.exec(toPlain(head)) ?? [];
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
