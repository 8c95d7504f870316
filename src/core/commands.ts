/** The commands of the chat; each fits a line of a phone (40 columns). */
export const commands = [
  { name: "help", use: "/help", what: "this list" },
  { name: "new", use: "/new [text]", what: "start a fresh conversation" },
  { name: "stop", use: "/stop", what: "stop the answer at work" },
  { name: "skip", use: "/skip", what: "drop what is not answered yet" },
  { name: "status", use: "/status", what: "does everything work?" },
  { name: "model", use: "/model [id]", what: "show or choose the model" },
  { name: "title", use: "/title [text]", what: "show or set the title" },
  { name: "sessions", use: "/sessions", what: "earlier conversations" },
  { name: "resume", use: "/resume N", what: "go back to number N" },
  { name: "usage", use: "/usage", what: "tokens and cost" },
  { name: "approve", use: "/approve [always]", what: "say yes" },
  { name: "deny", use: "/deny [why]", what: "say no" },
  { name: "projects", use: "/projects", what: "folders for Claude" },
  { name: "project", use: "/project NAME", what: "work on one; off ends" },
  { name: "diff", use: "/diff", what: "what was changed there" },
  { name: "undo", use: "/undo", what: "take the last changes back" },
  { name: "ask", use: "/ask", what: "be asked for every tool again" },
  { name: "reminders", use: "/reminders", what: "what is set; off N ends one" },
  { name: "retry", use: "/retry", what: "ask the last message again" },
  { name: "effort", use: "/effort [level]", what: "how hard Claude thinks" },
  { name: "export", use: "/export", what: "this conversation as a file" },
  { name: "forget", use: "/forget [all]", what: "delete the conversation" },
  { name: "allow", use: "/allow [who]", what: "let a person or group ask" },
  { name: "disallow", use: "/disallow [who]", what: "take that back" },
  { name: "people", use: "/people", what: "who may ask" },
  { name: "groups", use: "/groups", what: "in which groups" },
  { name: "verbose", use: "/verbose", what: "show or hide Claude's steps" },
] as const;

export type CommandName = (typeof commands)[number]["name"];

/** What a person needs first. */
const firstNames: readonly string[] = ["new", "stop", "status", "model", "sessions"];

/** One command a line: what a person needs first, then the others. */
export function commandHelp(): string {
  const line = ({ use, what }: (typeof commands)[number]): string => `${use} – ${what}`;
  const first = firstNames.flatMap((name) => commands.filter((command) => command.name === name));
  const others = commands.filter((command) => !first.includes(command));
  return [first, others].map((group) => group.map(line).join("\n")).join("\n\n");
}
