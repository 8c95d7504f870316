/**
 * Posts to a line whose log is kept here: each prompt is one request that resolves to its whole turn. What broke off is nowhere, so an
 * uncertain post is simply posted again, as often as `core/backoff.ts` allows.
 */
import { promptBounds } from "../core/backoff.ts";
import { BridgeError } from "../core/errors.ts";
import type { Session, SessionEvent } from "../core/model.ts";
import { textOf } from "../core/prompt.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";
import { createLive } from "./live.ts";
import { build, noteTurn, viewOf, type Worker } from "./post.ts";
import { untilWritten } from "./queue.ts";

/** Posts what is open until nothing is. @throws BridgeError of the request that failed */
export async function converse(bridge: Bridge, session: Session, worker: Worker, kill: AbortSignal): Promise<void> {
  for (;;) {
    const post = bridge.store.posts.open(session.id).find(({ state }) => state === "queued" || state === "posting");
    if (post === undefined || kill.aborted) return;
    await postOne(bridge, session, post, worker, kill);
  }
}

async function postOne(
  bridge: Bridge,
  session: Session,
  post: PostRow,
  worker: Worker,
  kill: AbortSignal,
): Promise<void> {
  const { store, chats, clock, line } = bridge;
  const stop = new AbortController();
  const signal = AbortSignal.any([kill, stop.signal]);
  // Taken back: its answer is not waited for.
  worker.wake = () => {
    if (!store.posts.isOpen(post.id)) stop.abort();
  };
  const live = createLive(bridge);
  const startedAt = clock.monotonic();
  let asked = "";
  try {
    const { request, isNew } = await build(bridge, post, signal);
    if (signal.aborted) return;
    asked = request.kind === "prompt" ? request.text : "";
    // What was cheap to build is built again after a crash: a commit less before the question is out.
    if (isNew && hasFiles(bridge, post)) store.posts.setRequest(post.id, request);
    const present = store.sessions.get(session.id) ?? session;
    if (post.kind === "prompt") {
      live.at({ inboxId: Number(post.subject), chat: session.chat, isVerbose: false });
      noteTurn(bridge, session.id, "started", startedAt);
      store.posts.begin(post.id);
    }
    const events = await line.post(await viewOf(bridge, present), [request], live.text, signal);
    if (signal.aborted || !store.posts.isOpen(post.id)) return;
    const eventId = events.find(({ type }) => type === "prompt")?.id ?? null;
    // It was paid for: while the disk is full it is held, not asked for again.
    const changes = await untilWritten(bridge, "follow", signal, () =>
      chats.log(present, events, [{ id: post.id, eventId }]),
    );
    if (changes === null) return;
    if (post.kind !== "prompt") return;
    bridge.notices.emit("claude", { fault: null, at: clock.now() });
    if (changes.some((change) => change.do === "finish")) noteTurn(bridge, session.id, "ended", startedAt);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof BridgeError) || !isLastBreak(post, error)) throw error;
    chats.log(store.sessions.get(session.id) ?? session, cutTurn(bridge, session, post, asked, error.partial ?? ""), [
      { id: post.id, eventId: cutId(post) },
    ]);
  } finally {
    store.posts.end(post.id);
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
