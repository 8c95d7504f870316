/**
 * Posts to a line whose log is kept here: each prompt is one request that resolves to its whole turn. What broke off is nowhere, or the
 * line knows it again, so an uncertain post is simply posted again, as often as `core/backoff.ts` allows.
 */
import type { Request } from "../claude/line.ts";
import { promptBounds } from "../core/backoff.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import { isOwner } from "../core/inbound.ts";
import { ownProgram, textOf, type Session, type SessionEvent } from "../core/model.ts";
import { accountsIn } from "../store/names.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";
import { createLive, workOf } from "./live.ts";
import { build, isEnd, noteEnd, viewOf, type Worker } from "./post.ts";
import { untilWritten } from "./queue.ts";

/** Posts what is open until nothing is. @throws BridgeError of the request that failed */
export async function converse(bridge: Bridge, session: Session, worker: Worker, kill: AbortSignal): Promise<void> {
  for (;;) {
    const batch = nextPosts(bridge, session);
    if (batch.length === 0 || kill.aborted) return;
    await postBatch(bridge, session, batch, worker, kill);
  }
}

/** Answers and stops together, so that Claude does not go on between them; then a prompt by itself, one that was cut off included. */
function nextPosts({ store, lineOf }: Bridge, session: Session): readonly PostRow[] {
  const open = store.posts.open(session.id);
  const due = open.filter(({ state }) => state === "queued" || state === "posting");
  const answers = due.filter(({ kind }) => kind !== "prompt");
  if (answers.length > 0) return answers;
  const isCut = ({ kind, state }: PostRow): boolean => kind === "prompt" && state === "posted";
  const isAsking = store.log.open(session.id).uses.length > 0;
  const cut = lineOf(session).remembers && !isAsking ? open.filter(isCut) : [];
  return [...cut, ...due].slice(0, 1);
}

async function postBatch(
  bridge: Bridge,
  session: Session,
  batch: readonly PostRow[],
  worker: Worker,
  kill: AbortSignal,
): Promise<void> {
  const { store, chats, clock, notices } = bridge;
  const line = bridge.lineOf(session);
  const prompt = batch.find(({ kind }) => kind === "prompt");
  const stop = new AbortController();
  const signal = AbortSignal.any([kill, stop.signal]);
  const asking = prompt ?? store.posts.open(session.id).find(isUnderWay);
  const isWanted = (): boolean => (asking ? [asking] : batch).some(({ id }) => store.posts.isOpen(id));
  // Taken back: its answer is not waited for.
  worker.wake = () => {
    if (!isWanted()) stop.abort();
  };
  const live = createLive(bridge);
  const startedAt = clock.monotonic();
  let asked = "";
  let posted = batch.map(({ id }): { id: number; eventId: string | null } => ({ id, eventId: null }));
  const keep = (events: readonly SessionEvent[]): void => void chats.log(session.id, events);
  const take = (events: readonly SessionEvent[]): void => {
    // What it has cost counts all the same.
    if (signal.aborted || !isWanted()) return keep(events.filter(({ type }) => type === "usage"));
    const eventId = events.find(({ type }) => type === "prompt")?.id ?? null;
    const rows = posted.map((row) => (row.id === prompt?.id ? { ...row, eventId } : row));
    const changes = chats.log(session.id, events, rows);
    store.db.afterCommit(() => {
      posted = [];
      live.events(events);
      if (isEnd(changes)) noteEnd(bridge, session.id, startedAt);
      else if (rows.length > 0) notices.emit("claude", { fault: null, at: clock.now() });
    });
  };
  try {
    if (prompt && line.name === ownProgram) refuseGuest(bridge, prompt);
    const requests: Request[] = [];
    for (const post of batch) {
      const built = await build(bridge, post, signal);
      if (signal.aborted) return;
      const request =
        built.request.kind === "prompt" && line.remembers ? { ...built.request, id: post.id } : built.request;
      requests.push(request);
      if (request.kind === "prompt") asked = request.text;
      // What was cheap to build is built again after a crash: a commit less before the question is out.
      if (built.isNew && (line.remembers || hasFiles(bridge, post))) store.posts.setRequest(post.id, request);
      if (!line.remembers) store.posts.begin(post.id);
      else if (post.state === "queued") store.posts.markPosting(post.id, clock.now(), null);
    }
    const present = store.sessions.get(session.id) ?? session;
    if (asking) live.at(workOf(present, asking));
    const onEvents = line.remembers ? take : keep;
    const events = await line.post(await viewOf(bridge, present), requests, live.text, signal, onEvents);
    // It was paid for: while the disk is full it is held, not asked for again.
    await untilWritten(bridge, "follow", signal, () => take(events));
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof BridgeError)) throw error;
    if (!prompt && error.retry === "never") return batch.forEach((post) => chats.refused(post, toFault(error)));
    if (!prompt || !isLastBreak(prompt, error)) throw error;
    chats.log(session.id, cutTurn(bridge, session, prompt, asked, error.partial ?? ""), [
      { id: prompt.id, eventId: cutId(prompt) },
    ]);
  } finally {
    for (const { id } of batch) store.posts.end(id);
    await live.end();
  }
}

const isUnderWay = ({ kind, state }: PostRow): boolean =>
  kind === "prompt" && (state === "posted" || state === "waiting");

/** It works under the owner's own login. */
function refuseGuest({ store, config }: Bridge, { subject }: PostRow): void {
  const envelope = store.inbox.get(Number(subject))?.envelope;
  if (envelope && !isOwner(envelope, { allow: config.allow, accountOf: accountsIn(store.settings) }))
    throw new BridgeError("owner_only", "Cannot ask the claude program for another person than the owner");
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
