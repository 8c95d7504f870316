/**
 * Posts to a line whose log is kept here: each prompt is one request that resolves to its whole turn. What broke off is nowhere, so an
 * uncertain post is simply posted again, as often as `core/backoff.ts` allows.
 */
import { promptBounds } from "../core/backoff.ts";
import type { Request } from "../claude/line.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Session, SessionEvent } from "../core/model.ts";
import { textOf } from "../core/prompt.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";
import { createLive } from "./live.ts";
import { build, noteTurn, viewOf, type Worker } from "./post.ts";

/** Posts what is open until nothing is. @throws BridgeError of the request that failed */
export async function converse(bridge: Bridge, session: Session, worker: Worker, kill: AbortSignal): Promise<void> {
  for (;;) {
    const due = bridge.store.posts.open(session.id).filter(({ state }) => state === "queued" || state === "posting");
    const others = due.filter(({ kind }) => kind !== "prompt");
    // A stop answers, by itself, what is refused for good.
    const posts = others.length > 0 ? others : due.slice(0, 1);
    if (posts.length === 0 || kill.aborted) return;
    await post(bridge, session, posts, worker, kill);
  }
}

async function post(
  bridge: Bridge,
  session: Session,
  posts: readonly PostRow[],
  worker: Worker,
  kill: AbortSignal,
): Promise<void> {
  const { store, chats, clock, line } = bridge;
  const stop = new AbortController();
  const signal = AbortSignal.any([kill, stop.signal]);
  const isOpen = (): boolean => posts.some(({ id }) => store.posts.isOpen(id));
  const isStop = posts.some(({ kind }) => kind === "interrupt");
  // Taken back, or stopped: its answer is not waited for.
  worker.wake = () => {
    if (!isOpen() || (!isStop && store.posts.open(session.id).some(({ kind }) => kind === "interrupt"))) stop.abort();
  };
  const live = createLive(bridge);
  const startedAt = clock.monotonic();
  const prompt = posts.find(({ kind }) => kind === "prompt");
  let asked = "";
  try {
    const requests: Request[] = [];
    for (const row of posts) {
      const { request, isNew } = await build(bridge, row, signal);
      if (signal.aborted) return;
      requests.push(request);
      if (request.kind === "prompt") asked = request.text;
      // What was cheap to build is built again after a crash: a commit less before the question is out.
      if (isNew && hasFiles(bridge, row)) store.posts.setRequest(row.id, request);
    }
    const present = store.sessions.get(session.id) ?? session;
    if (prompt) {
      live.at({ inboxId: Number(prompt.subject), chat: session.chat, isVerbose: false });
      noteTurn(bridge, session.id, "started", startedAt);
      store.posts.begin(prompt.id);
    }
    const events = await line.post(await viewOf(bridge, present), requests, live.text, signal);
    if (signal.aborted || !isOpen()) return;
    const eventId = events.find(({ type }) => type === "prompt")?.id ?? null;
    const posted = posts.map(({ id, kind }) => ({ id, eventId: kind === "prompt" ? eventId : null }));
    const changes = chats.log(present, events, posted);
    if (!isStop) bridge.notices.emit("claude", { fault: null, at: clock.now() });
    if (changes.some((change) => change.do === "finish")) noteTurn(bridge, session.id, "ended", startedAt);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof BridgeError)) throw error;
    if (!prompt && error.retry === "never") posts.forEach((row) => chats.refused(row, toFault(error)));
    else if (prompt && isLastBreak(prompt, error))
      chats.log(
        store.sessions.get(session.id) ?? session,
        cutTurn(bridge, session, prompt, asked, error.partial ?? ""),
        [{ id: prompt.id, eventId: cutId(prompt) }],
      );
    else throw error;
  } finally {
    if (prompt) store.posts.end(prompt.id);
    worker.wake = () => undefined;
    await live.end();
  }
}

const hasFiles = ({ store }: Bridge, { subject }: PostRow): boolean => {
  const envelope = store.inbox.get(Number(subject))?.envelope;
  return (envelope && textOf(envelope)?.attachments.length) !== 0;
};

/** It is not asked for again: what had come is better than nothing. */
const isLastBreak = ({ tries }: PostRow, { partial }: BridgeError): boolean =>
  partial !== null && partial.trim() !== "" && (tries.broken ?? 0) + 1 >= promptBounds.broken.triesMax;

const cutId = ({ id }: PostRow): string => `local:cut${id}`;

/** A turn that broke off, as the log has it: the next prompt goes on from there. */
function cutTurn(
  { clock, store }: Bridge,
  { id: sessionId }: Session,
  post: PostRow,
  asked: string,
  text: string,
): SessionEvent[] {
  const at = Math.max(clock.now(), (store.sessions.get(sessionId)?.cursor ?? 0) + 1);
  const id = cutId(post);
  return [
    { id, at, type: "prompt", text: asked },
    { id: `${id}:reply`, at, type: "reply", text },
    { id: `${id}:idle`, at, type: "idle", stop: { kind: "cut" } },
  ];
}
