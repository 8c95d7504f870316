/** The commands of the chat, in the order `/help` shows them. */
export const commands = [
  { name: "help", use: "/help", what: "this list" },
  { name: "new", use: "/new", what: "start a fresh conversation" },
  { name: "stop", use: "/stop", what: "stop the answer at work" },
  { name: "skip", use: "/skip", what: "drop the messages that wait" },
  { name: "status", use: "/status", what: "how the line stands" },
  { name: "model", use: "/model [id]", what: "show or choose the model" },
  { name: "title", use: "/title [text]", what: "show or set the title" },
  { name: "sessions", use: "/sessions", what: "earlier conversations" },
  { name: "resume", use: "/resume N", what: "go back to one" },
  { name: "usage", use: "/usage", what: "tokens and cost" },
  { name: "approve", use: "/approve", what: "say yes to Claude's question" },
  { name: "deny", use: "/deny", what: "say no" },
  { name: "retry", use: "/retry", what: "ask the last message again" },
  { name: "effort", use: "/effort [level]", what: "how hard Claude thinks" },
  { name: "export", use: "/export", what: "this conversation as a file" },
  { name: "forget", use: "/forget", what: "delete this conversation" },
  { name: "verbose", use: "/verbose", what: "show or hide tool use" },
] as const;

export type CommandName = (typeof commands)[number]["name"];

export const commandHelp = (): string => commands.map(({ use, what }) => `${use} – ${what}`).join("\n");
