/**
 * Carries out the commands of the chat. Pure, like all of a decision: a handler reads the view and answers with a text and with changes,
 * which are written in the transaction that also writes the command, so that no message ever waits behind a command.
 */
import type { Change, View } from "./changes.ts";
import { refuseAll, say, withdraw } from "./common-changes.ts";
import { commandHelp, commands, type CommandName } from "./commands.ts";
import { changeGuests, listGuests } from "./guests.ts";
import { efforts, isSameAddress, textOf, type Context, type Envelope, type JsonValue } from "./model.ts";
import { nearest, nearestModel } from "./nearest.ts";
import { listReminders, cancelReminder } from "./reminders.ts";
import { renderReply } from "./reply.ts";
import { spendText } from "./spend.ts";
import { textFile } from "./text.ts";

export type CommandContext = {
  readonly view: View;
  /** The command's own row of the inbox. */
  readonly id: number;
  readonly envelope: Envelope;
};

type Done = { readonly text: string | null; readonly changes: readonly Change[] };
type Handler = (context: CommandContext, argument: string) => Done;

const tell = (text: string, ...changes: readonly Change[]): Done => ({ text, changes });

/** Runs one command; an unknown name is answered with the nearest one there is. */
export function execute(name: string, argument: string, context: CommandContext): Done {
  const names = commands.map((command) => command.name);
  if (Object.hasOwn(handlers, name)) return handlers[name as Runnable](context, argument);
  if (name === "compact") return tell(compactText);
  const near = nearest(name, names);
  return tell(`There is no /${name.slice(0, 20)}. ${meant(near && `/${near}`)}/help lists what there is.`);
}

const meant = (near: string | null): string => (near === null ? "" : `Did you mean ${near}? `);

const compactText = "Nothing to do: a long conversation is shortened by itself. /new starts a fresh one.";

/** The commands that are run here: `/approve` and `/deny` are answers to a question already (`core/inbound.ts`). */
type Runnable = Exclude<CommandName, "approve" | "deny">;

const handlers: Record<Runnable, Handler> = {
  help: () => tell(commandHelp()),
  privacy: ({ view, id }) => ({
    text: null,
    changes: renderReply(view.look.privacy).map((body, part) => say("command", id, body, { part })),
  }),
  new({ view, id, envelope }, argument) {
    const { count } = view.waiting();
    const dropped = count > 0 ? ` ${count} open ${count === 1 ? "message was" : "messages were"} dropped.` : "";
    const words = /^(?:chat|conversation|session|topic)$/iu.test(argument) ? "" : argument;
    const isAsked = words !== "" || (textOf(envelope)?.attachments.length ?? 0) > 0;
    const asks: Change[] = isAsked ? [openAs(id, withText(envelope, words))] : [];
    return tell(`New conversation.${dropped}`, ...clear(view, "all"), ...end(view), ...asks);
  },
  stop: ({ view }) =>
    view.head.length > 0 || view.asks.length > 0 ? tell("Stopped.", ...clear(view, "first")) : tell("Nothing to stop."),
  skip({ view }) {
    const { count } = view.waiting();
    if (count === 0) return tell("Nothing is waiting.");
    return tell(`Dropped ${count} waiting ${count === 1 ? "message" : "messages"}.`, ...clear(view, "all"));
  },
  status({ view, envelope }) {
    const spend = view.spend(envelope);
    const { count } = view.waiting();
    const granted = grantedIn(view);
    const tries = Object.values(view.head[0]?.post?.tries ?? {}).reduce((sum, one) => sum + one, 0);
    const lines = [
      view.look.situation(),
      count === 0 ? "Nothing waits for an answer here." : `Waiting for an answer here: ${count}`,
      ...(tries === 0 ? [] : [`The first was tried ${tries} times so far; /stop drops it.`]),
      ...(granted.length === 0 ? [] : [`Allowed without asking: ${granted.join(", ")}`]),
      ...(spend === null ? [] : [spendText(spend)]),
    ];
    return tell(lines.join("\n"));
  },
  model({ view }, argument) {
    const { look } = view;
    const current = text(look.chosen(), "model") ?? look.defaultModel;
    const models = look.models().filter((id) => id !== current);
    const listed = models.slice(0, modelsMax).map((id, index) => `${index + 1}. ${id}`);
    const others =
      listed.length > 0 ? ["Others:", ...listed] : ["The list of models cannot be had now; /model NAME takes any."];
    if (argument === "") return tell([`Model: ${current}`, ...others].join("\n"));
    const chosen = models[numberIn(argument) - 1] ?? pick(argument, [current, ...models]);
    if (chosen === null)
      return tell(`No model ${argument.slice(0, 60)}. ${meant(nearestModel(argument, models))}/model lists them.`);
    const isLater = look.isModelFixed && view.session?.remoteId;
    return tell(`Model: ${chosen}${isLater ? laterText : ""}`, set("model", chosen));
  },
  effort({ view }, argument) {
    const { look } = view;
    const current = text(look.chosen(), "effort") ?? look.defaultEffort;
    if (argument === "")
      return tell(`Effort: ${current}\nOthers: ${efforts.filter((one) => one !== current).join(", ")}`);
    const chosen = efforts.find((effort) => effort === argument.toLowerCase());
    if (!chosen) return tell(`Effort is one of ${efforts.join(", ")}.`);
    return tell(`Effort: ${chosen}${view.session?.remoteId ? laterText : ""}`, set("effort", chosen));
  },
  title({ view }, argument) {
    if (argument === "") {
      const own = view.look.conversations().find(({ session }) => session.id === view.session?.id);
      return tell(`Title: ${own?.name ?? "untitled"}`);
    }
    const title = argument.slice(0, titleMax);
    return tell(`Title: ${title}`, set("title", title));
  },
  verbose({ view }, argument) {
    const isOn = argument === "" ? view.look.chosen()["verbose"] !== true : /^(on|yes|1|true)$/iu.test(argument);
    return tell(isOn ? "Tool use is shown." : "Tool use is not shown.", set("verbose", isOn));
  },
  sessions({ view }) {
    const list = view.look.conversations();
    if (list.length === 0) return tell("No conversations yet.");
    const lines = list.map(
      ({ session, name }, index) =>
        `${index + 1}. ${session.project === null ? "" : `[${session.project}] `}${name}${session.state === "active" ? " (this one)" : ""}`,
    );
    return tell([...lines, "/resume N goes back to one."].join("\n"));
  },
  resume({ view }, argument) {
    const chosen = view.look.conversations()[numberIn(argument) - 1];
    if (!chosen) return tell("Which one? /sessions lists them.");
    if (chosen.session.id === view.session?.id) return tell(`This is: ${chosen.name}`);
    return tell(`Back in: ${chosen.name}`, ...clear(view, "all"), { do: "resumeSession", id: chosen.session.id });
  },
  usage: ({ view, envelope }) => tell(view.look.usage(envelope) ?? "Nothing used yet."),
  projects: (context) => forOwner(context, (view) => tell(projectList(view))),
  project: (context, argument) => forOwner(context, (view) => openProject(view, argument)),
  undo: (context) => forOwner(context, () => onFiles(context, "undo")),
  diff: (context) => forOwner(context, () => onFiles(context, "diff")),
  ask: ({ view }) =>
    grantedIn(view).length === 0
      ? tell("Claude asks already.")
      : tell("Claude asks again from now on.", { do: "grantEdits", project: null }, { do: "grant", tools: [] }),
  reminders({ view, envelope }, argument) {
    if (argument === "") return tell(listReminders(view));
    const [, number] = /^(?:off|stop|cancel|delete|remove|undo) *(\d+)$/iu.exec(argument) ?? [];
    if (number === undefined) return tell("/reminders lists them, /reminders off 2 takes number 2 back.");
    const { text, changes } = cancelReminder(view, envelope, Number(number));
    return tell(text, ...changes);
  },
  retry({ id, view, envelope: { source } }) {
    const last = view.look.lastPrompt();
    // A prompt whose text has disappeared, or was forgotten, cannot be asked again.
    if (last === null || textOf(last) === null) return tell("Nothing was asked yet.");
    // It would be asked in that person's name, and at that person's cost.
    if (!source || !last.source || !isSameAddress(last.source, source))
      return tell("That was asked by somebody else, who can have it asked again.");
    return { text: null, changes: [openAs(id, last)] };
  },
  export({ id, view }) {
    const files = [textFile("conversation.md", view.look.transcript(), "text/markdown")];
    const body = { kind: "text", text: "", styles: [], quote: null, files } as const;
    return { text: null, changes: [say("command", id, body)] };
  },
  allow: (context, argument) => forHost(context, ({ look, chat }) => changeGuests(look.guests, chat, argument, true)),
  disallow: (context, argument) =>
    forHost(context, ({ look, chat }) => changeGuests(look.guests, chat, argument, false)),
  people: (context) => forHost(context, ({ look }) => tell(listGuests(look.guests, false))),
  groups: (context) => forHost(context, ({ look }) => tell(listGuests(look.guests, true))),
  forget({ view }, argument) {
    const word = argument.toLowerCase();
    if (word === "all")
      return tell("That deletes every conversation of this chat, here and at Claude. To do so: /forget all yes");
    if (/^all yes$/u.test(word)) {
      if (view.look.conversations().length === 0) return tell("There is no conversation to forget.");
      const text =
        "Forgotten: all conversations of this chat are deleted here, and at Claude as soon as it can be reached.";
      return tell(text, ...clear(view, "all"), { do: "forget", id: null });
    }
    if (word !== "") return tell("/forget deletes this conversation, /forget all every one of this chat.");
    const session = view.session ?? view.left;
    if (session === null) return tell("There is no conversation to forget.");
    const text = "Forgotten: this conversation is deleted here, and at Claude as soon as it can be reached.";
    return tell(text, ...clear(view, "all"), { do: "forget", id: session.id });
  },
};

const forOwner = ({ view, envelope }: CommandContext, work: (view: View) => Done, text = ownerText): Done =>
  view.isOwner(envelope) ? work(view) : tell(text);
const ownerText = "Only the owner of this machine may do that.";
const forHost = (context: CommandContext, work: (view: View) => Done): Done => forOwner(context, work, hostText);
const hostText = "Only the owner of this account can say who may ask.";

const set = (key: string, value: JsonValue): Change => ({ do: "set", key, value });
const laterText = ", from the next /new on.";

const grantedIn = ({ granted, look }: View): string[] => [
  ...granted,
  ...look.granted().map((name) => `edits in ${name}`),
];

function projectList({ look }: View): string {
  const lines = look
    .projects()
    .map(
      ({ name, run }) =>
        `${name}${run ? " (may run commands)" : ""}${name === look.openProject() ? " – open here" : ""}`,
    );
  return lines.length === 0
    ? "There are no projects. On the machine: signalman projects add NAME FOLDER"
    : [...lines, "/project NAME opens one here."].join("\n");
}

function openProject(view: View, argument: string): Done {
  const open = view.look.openProject();
  if (argument === "") return tell(open === null ? projectList(view) : `Project: ${open}. /project off leaves it.`);
  if (argument.toLowerCase() === "off")
    return open === null ? tell("No project is open here.") : tell(`Left ${open}.`, ...enter(view, null));
  const names = view.look.projects().map(({ name }) => name);
  const name = names.find((one) => one.toLowerCase() === argument.toLowerCase());
  if (name === undefined)
    return tell(
      `There is no project ${argument.slice(0, 60)}. ${meant(nearest(argument, names))}/projects lists them.`,
    );
  if (name === open) return tell(`${name} is open here already.`);
  const text = `Project ${name}: Claude reads, searches and edits its folder; each change is shown first.`;
  return tell(text, ...enter(view, name));
}

/** Goes on in the last conversation about this project, where there is one. */
function enter(view: View, project: string | null): Change[] {
  const before = view.look.lastOfProject(project);
  return [
    ...clear(view, "all"),
    ...end(view),
    { do: "openProject", project },
    ...(before === null ? [] : [{ do: "resumeSession", id: before.id } as const]),
  ];
}

function end({ session, left }: View): Change[] {
  const over = session ?? left;
  return over === null ? [] : [{ do: "endSession", id: over.id }];
}

function onFiles({ view, id }: CommandContext, work: "undo" | "diff"): Done {
  const { session } = view;
  if (!session?.project) return tell("No project is open here. /projects lists them.");
  return { text: null, changes: [{ do: "owe", id, sessionId: session.id, work }] };
}

/** Conversations that `/sessions` lists and `/resume` counts by. */
export const conversationsMax = 9;
const modelsMax = 12;
const titleMax = 200;

/** Drops the prompt at work, or all open prompts; and questions that no prompt of ours waits for. */
function clear(view: View, which: "first" | "all"): Change[] {
  const prompts = which === "all" ? view.prompts() : view.head.slice(0, 1);
  const dropped = prompts.flatMap((prompt) => withdraw(view, prompt, false));
  return dropped.some((change) => change.do === "answer") ? dropped : [...refuseAll(view), ...dropped];
}

const openAs = (id: number, envelope: Envelope): Change => ({
  do: "open",
  id,
  envelope,
  versions: [envelope.sentAt],
});

/** The message with other words: its mentions are gone with the old ones. */
function withText(envelope: Envelope, words: string): Envelope {
  const body = textOf(envelope);
  return body === null ? envelope : { ...envelope, content: { ...body, text: words, mentions: [] } };
}

/** `2`, `#2` or `2.` */
const numberIn = (argument: string): number => Number(/^#?(\d{1,3})\.?$/u.exec(argument)?.[1]);

function text(context: Context, key: string): string | null {
  const value = context[key];
  return typeof value === "string" ? value : null;
}

/** The model that is meant by a part of its name; where there is no list, a name that looks like a model's is taken as it is. */
function pick(name: string, models: readonly string[]): string | null {
  const wanted = name.toLowerCase();
  const found = models.find((id) => id === wanted) ?? models.find((id) => id.includes(wanted));
  if (found !== undefined) return found;
  return models.length <= 1 && /^[\w.:/-]{3,80}$/u.test(name) ? name : null;
}
