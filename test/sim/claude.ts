/** Claude's side of the simulated world: what it says to which prompt, and a record of everything that was posted and said. */
import type { Line } from "../../src/claude/line.ts";
import { createScriptedClaude, type Fault, type Point, type ScriptedClaude } from "../doubles/scripted.ts";
import { createWorld, type Beat, type World, type WorldSession } from "../doubles/world.ts";
import { nextStamp } from "../../src/core/hlc.ts";
import type { Millis } from "../../src/core/model.ts";
import { progressOf, trackAll } from "../../src/core/turn.ts";
import { people as addresses } from "./config.ts";
import type { VirtualClock } from "../doubles/clock.ts";
import type { Dice } from "./dice.ts";
import type { Garden } from "./garden.ts";
import type { Life, Machine } from "./life.ts";
import { createCodeClaude, createTranscripts } from "./code.ts";
import { createLocalClaude, type LocalClaude, type LocalDeps } from "./local.ts";
import type { People } from "./people.ts";
import type { Plan } from "./plan.ts";

/** Every prompt carries one, every reply answers one; numbers make each reply unlike every other. */
export const promptMark = /ask-\d+|\b(?:yes|no)$/;
export const replyMark = /#\d+#/;

type Post = { readonly sessionId: string; readonly eventId: string };

export type Theirs = {
  readonly world: World;
  /** Every session that ever was, deleted ones included. */
  readonly sessions: readonly WorldSession[];
  /** Claude's words by their mark: the prompt they answer, where the backend keeps no session at Claude's side. */
  readonly answers: ReadonlyMap<string, string>;
  /** The line of a new life to this world. */
  connect(life: Life): Line;
  /** The next request of the present line at this point goes wrong. */
  fail(point: Point, fault: Fault): void;
  setDown(isDown: boolean): void;
  setMute(isMute: boolean): void;
  /** The machine's clock was set. */
  setSkew(): void;
  /** From now on every prompt is answered at once. */
  calmDown(): void;
  /** Claude speaks by itself. */
  speak(session: WorldSession): void;
  /** Another device of the account. */
  elsewhere: {
    ask(session: WorldSession): void;
    rename(session: WorldSession): void;
    set(session: WorldSession): void;
  };
};

export type TheirsDeps = {
  /** What Claude calls in the folder of the machine, if anything. */
  readonly calls: Garden["calls"];
  readonly base: VirtualClock;
  readonly machine: Machine;
  readonly dice: Dice;
  readonly plan: Plan;
  /** Where the conversation is not kept at the API, the owner's own program keeps it. */
  readonly isCode: boolean;
  readonly people: People;
  /** The process that lives now, if any. */
  readonly life: () => Life | null;
  readonly onBroken: (what: string) => void;
  readonly trace: (text: string) => void;
};

export function createTheirs(deps: TheirsDeps): Theirs {
  const { base, machine, dice } = deps;
  const script = createScript(deps);
  const world = createWorld(base, (prompt) => script.beats(prompt));
  const sessions: WorldSession[] = [];
  const posts = new Map<string, Post[]>();
  const isLost = ({ sessionId, eventId }: Post): boolean => {
    const session = world.find(sessionId);
    if (!session || session.isArchived || session.status === "terminated") return true;
    if (session.queue.some((prompt) => prompt.id === eventId)) return false;
    if (!session.log.some((event) => event.id === eventId)) return true;
    return trackAll(progressOf(eventId), session.log).kind === "flushed";
  };
  /** A person's messages are asked in the order in which they came. */
  const newest = new Map<string, number>();
  const checkOrder = (id: string, mark: string): void => {
    const chat = chatOf(deps, id);
    const number = Number(/\d+$/.exec(mark)?.[0] ?? NaN);
    if (chat === null || Number.isNaN(number)) return;
    if (number < (newest.get(chat) ?? 0)) deps.onBroken(`${mark} was asked after a later message of its chat`);
    newest.set(chat, number);
  };
  const ours: World = {
    ...world,
    create(title, metadata) {
      const session = world.create(title, metadata);
      sessions.push(session);
      return session;
    },
    post(id, text) {
      const event = world.post(id, text);
      const mark = promptMark.exec(text)?.[0];
      deps.trace(`posted ${mark} to ${id} as ${event.id}`);
      if (mark === undefined) {
        deps.onBroken("a prompt was posted that no person wrote");
        return event;
      }
      const earlier = posts.get(mark) ?? [];
      if (earlier.filter((post) => !isLost(post)).length >= deps.people.chatsOf(mark).length)
        deps.onBroken(`${mark} was asked twice`);
      checkPlace(deps, id, mark);
      if (earlier.length === 0) checkOrder(id, mark);
      posts.set(mark, [...earlier, { sessionId: id, eventId: event.id }]);
      deps.life()?.delivered("prompt");
      return event;
    },
    confirm(id, toolUseId, isAllowed) {
      if (isAllowed) checkApproval(deps, id);
      return world.confirm(id, toolUseId, isAllowed);
    },
  };
  const answers = new Map<string, string>();
  const transcripts = createTranscripts();
  const connectLocal = (life: Life): Line => {
    const given: LocalDeps = {
      dice,
      calls: deps.calls,
      onBroken: deps.onBroken,
      isDown: () => isDown,
      isMute: () => isMute,
      skewMs: skew,
      onAsked(history, prompt) {
        const mark = marksOf(prompt).at(-1);
        if (mark === undefined) return deps.onBroken("a prompt was posted that no person wrote");
        deps.trace(`asked ${mark} after ${history.length} messages`);
        checkOwed(deps, mark);
        const chats = deps.people.chatsOf(mark);
        for (const other of history.flatMap(marksOf))
          if (!deps.people.chatsOf(other).some((chat) => chats.includes(chat)))
            deps.onBroken(`${other} was told in the chat of ${mark}`);
      },
      answer(prompt) {
        const mark = script.mark();
        answers.set(mark, marksOf(prompt).at(-1) ?? "");
        return `${mark} re[${answers.get(mark)}]`;
      },
    };
    const onAsked: LocalDeps["onAsked"] = (history, prompt) => {
      given.onAsked(history, prompt);
      const mark = marksOf(prompt).at(-1) ?? "";
      const times = history.filter((text) => marksOf(text).at(-1) === mark).length + 1;
      if (times > deps.people.chatsOf(mark).length) deps.onBroken(`${mark} was asked ${times} times`);
    };
    local = deps.isCode ? createCodeClaude(life, { ...given, onAsked, transcripts }) : createLocalClaude(life, given);
    if (isCalm) local.calmDown();
    return local.line;
  };
  let device: ScriptedClaude | null = null;
  let local: LocalClaude | null = null;
  let isCalm = false;
  let isDown = false;
  let isMute = false;
  const skew = (): Millis => -machine.wallOffsetMs;
  let count = 0;
  return {
    world,
    sessions,
    answers,
    connect(life) {
      if (deps.plan.backend === "local") return connectLocal(life);
      const fresh = createScriptedClaude({
        clock: life.clock,
        world: ours,
        skewMs: skew(),
        pageMax: 1 + dice.below(40),
      });
      fresh.setDown(isDown);
      fresh.setMute(isMute);
      life.onDeath(() => fresh.setDown(true));
      device = fresh;
      return fresh.line;
    },
    fail: (point, fault) => (local ?? device)?.fail(point, fault),
    setDown(next) {
      isDown = next;
      device?.setDown(next);
    },
    setMute(next) {
      // A line that was mute and lives again was another line: its gap is closed by listing, never by going on.
      if (!next && isMute) world.cut();
      isMute = next;
      device?.setMute(next);
    },
    setSkew: () => device?.setSkew(skew()),
    calmDown() {
      isCalm = true;
      script.calmDown();
      local?.calmDown();
    },
    speak: (session) => world.say(session.id, `${script.mark()} by the way`),
    elsewhere: {
      ask: (session) => void world.post(session.id, `from elsewhere ${++count}`),
      rename: (session) => world.patch(session.id, { title: `Renamed ${++count}` }),
      set(session) {
        const stamp = nextStamp(null, base.now(), "beef");
        const key = dice.pick(["c.verbose", "c.color", "c.title"]);
        const value = key === "c.verbose" ? dice.chance(0.5) : `there ${++count}`;
        const title = key === "c.title" ? String(value) : undefined;
        world.patch(session.id, { title, metadata: { [key]: `${stamp}~${JSON.stringify(value)}` } });
      },
    },
  };
}

const chatOf = ({ life }: TheirsDeps, remoteId: string): string | null =>
  life()?.look()?.get<{ chat: string }>("SELECT chat_key AS chat FROM sessions WHERE remote_id = ?", remoteId)?.chat ??
  null;

/** It is asked in the session of its own chat, and only while its answer is owed. */
function checkPlace(deps: TheirsDeps, remoteId: string, mark: string): void {
  const chat = chatOf(deps, remoteId);
  if (chat === null) return;
  if (!deps.people.chatsOf(mark).includes(chat)) deps.onBroken(`${mark} was asked in the session of ${chat}`);
  const over = deps
    .life()
    ?.look()
    ?.get(
      `SELECT 1 FROM sessions JOIN inbox ON inbox.chat_key = sessions.chat_key
       WHERE remote_id = ? AND sessions.state = 'ended' AND inbox.state <> 'done' AND envelope LIKE ?`,
      remoteId,
      `%${mark}"%`,
    );
  if (over) deps.onBroken(`${mark} was asked in a conversation that is over`);
  checkOwed(deps, mark);
}

/** Not after it was taken back. */
function checkOwed({ life, onBroken }: TheirsDeps, mark: string): void {
  const now = life();
  const db = now?.look();
  if (!now || !db) return;
  const owed = db.get(
    "SELECT 1 FROM inbox WHERE kind = 'prompt' AND envelope LIKE ? AND (state <> 'done' OR done_at >= ?)",
    `%${mark}"%`,
    now.clock.now(),
  );
  if (!owed) onBroken(`${mark} was asked although no person waits for its answer`);
}

/** In a group only who is on the list by name, or the owner, may say yes. An answer goes out after later ones may have come: one of all is hers. */
function checkApproval(deps: TheirsDeps, remoteId: string): void {
  const chat = chatOf(deps, remoteId);
  if (!chat?.startsWith("group:")) return;
  const answer = deps
    .life()
    ?.look()
    ?.get(
      `SELECT 1 FROM inbox WHERE chat_key = ? AND kind = 'answer'
       AND (envelope ->> '$.source.aci' = ? OR envelope ->> '$.isOwn' = 1) LIMIT 1`,
      chat,
      addresses.ann.aci,
    );
  if (!answer) deps.onBroken("a tool was allowed by a person who is not on the list by name");
}

const marksOf = (text: string): string[] => text.match(/(?<!\[)(?:ask-\d+|\b(?:yes|no)$)/gmu) ?? [];

function createScript({ dice, plan, calls }: TheirsDeps) {
  let isCalm = false;
  let count = 0;
  const mark = (): string => `#${++count}#`;
  const say = (to: string): Beat => {
    const text = `${mark()} re[${to}]`;
    if (dice.chance(0.1)) return { write: [text, " in", " pieces"] };
    // Slow enough for a preview and its edits.
    if (!isCalm && dice.chance(plan.preview)) {
      const words = Array.from({ length: 1 + dice.below(8) }, (_, index) => ` word ${index}`);
      return { write: [text, ...words], everyMs: Math.round(dice.between(500, 9_000)) };
    }
    return { say: dice.chance(0.05) ? `${text} ${"and so on, at length, ".repeat(200)}` : text };
  };
  const beats = (prompt: string): Beat[] => {
    const to = promptMark.exec(prompt)?.[0] ?? "elsewhere";
    if (isCalm) return [say(to)];
    const list: Beat[] = [];
    const parts = dice.chance(0.7) ? 1 : dice.below(4);
    for (let part = 0; part < parts; part++) {
      if (dice.chance(0.6))
        list.push({ pauseMs: Math.round(dice.between(50, dice.chance(plan.slow) ? 120_000 : 3_000)) });
      if (dice.chance(plan.ask)) list.push({ ask: "shell", input: { command: `ls ${count}` } });
      const called = calls();
      if (called.length > 0) list.push({ calls: called });
      if (dice.chance(0.1)) list.push({ fail: "overloaded_error", retry: "retrying" });
      list.push(say(to));
    }
    if (dice.chance(plan.exhausted)) return [...list, { fail: "overloaded_error", retry: "exhausted" }];
    if (dice.chance(plan.terminal)) return [...list, { fail: "unknown_error", retry: "terminal" }];
    if (dice.chance(plan.oddStop)) list.push({ stop: dice.pick(oddStops) });
    return list;
  };
  return { beats, mark, calmDown: () => void (isCalm = true) };
}

const oddStops = [
  { kind: "refusal" },
  { kind: "max_tokens" },
  { kind: "context_exceeded" },
  { kind: "budget_reached" },
  { kind: "other", name: "something_new" },
] as const;
