/** Takes edits back: the file before a turn is kept in signalman's home, and restored while the file is as Claude left it. */
import { createTwoFilesPatch, FILE_HEADERS_ONLY } from "diff";
import { mkdir, open, readFile, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import pLimit from "p-limit";
import type { Clock } from "../clock.ts";
import type { Millis } from "../core/model.ts";
import type { Kept, KeptRows } from "../store/kept.ts";
import { hashOf, inWords, locate, readFileText, replace, type FileContent } from "./file-content.ts";

const ageMaxMs: Millis = 30 * 86_400_000;
const bytesMax = 200 * 2 ** 20;
/** Bounds the time that a diff takes: beyond this many changed lines the whole text is shown as replaced. */
const editLengthMax = 500;

/** One turn of a session in a project. */
export type Scope = Pick<Kept, "sessionId" | "root" | "turn">;
export type Undo = ReturnType<typeof createUndo>;

/** A unified diff; null stands for no file. */
export function patchOf(path: string, before: string | null, after: string | null): string {
  const names = [before === null ? "/dev/null" : `a/${path}`, after === null ? "/dev/null" : `b/${path}`] as const;
  const bound = before && after ? { maxEditLength: editLengthMax } : {};
  const options = { context: 3, headerOptions: FILE_HEADERS_ONLY, ...bound };
  const patch = createTwoFilesPatch(...names, before ?? "", after ?? "", "", "", options);
  return patch ?? patchOf(path, before, "") + patchOf(path, "", after).split("\n").slice(2).join("\n");
}

/** `home` is signalman's; `clock` dates kept files. */
export function createUndo(home: string, rows: KeptRows, clock: Pick<Clock, "now">) {
  const folder = join(home, "undo");
  // Pruning must not meet bytes whose row is not written yet.
  const inOrder = pLimit(1);

  async function store(bytes: Buffer): Promise<string> {
    const hash = hashOf(bytes);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    // The file is written beside and renamed, since half a file under a hash would be believed.
    const fresh = join(folder, `${hash}.new`);
    await using file = await open(fresh, "w", 0o600);
    await file.writeFile(bytes);
    await file.sync();
    await rename(fresh, join(folder, hash));
    return hash;
  }

  const bytesOf = (hash: string | null) => (hash === null ? null : readFile(join(folder, hash), "utf8"));

  async function prune(): Promise<void> {
    rows.prune(clock.now() - ageMaxMs, bytesMax);
    const used = rows.hashes();
    const names = await readdir(folder).catch(() => []);
    await Promise.all(names.filter((name) => !used.has(name)).map((name) => rm(join(folder, name), { force: true })));
  }

  return {
    prune: () => inOrder(prune),
    /** Keeps the file before a write, once a turn, and notes the hash of what will be written. */
    keep: (scope: Scope, path: string, present: FileContent | null, after: string): Promise<void> =>
      inOrder(async () => {
        const isFirst = rows.get(scope.sessionId, scope.root, path, scope.turn) === null;
        if (isFirst) await prune();
        const before = isFirst && present !== null ? await store(present.bytes) : null;
        rows.put({ ...scope, path, before, bytes: present?.bytes.length ?? 0, after: hashOf(after), at: clock.now() });
      }),

    /** True while the file is what Claude left in this turn. */
    isLeft: ({ sessionId, root, turn }: Scope, path: string, hash: string): boolean =>
      rows.get(sessionId, root, path, turn)?.after === hash,

    /** Takes the last turn back. `left` has a reason for each file that was not restored; a second call takes back the turn before. */
    async undo(sessionId: string, root: string) {
      const done = { restored: [] as string[], left: [] as string[] };
      for (const kept of rows.lastTurn(sessionId, root)) {
        const { why, isOver } = await takeBack(kept);
        if (why === null) done.restored.push(kept.path);
        else done.left.push(why);
        if (isOver) rows.drop(kept);
      }
      await inOrder(prune);
      return done;
    },

    /** Resolves to the changes of the session so far, as one patch; "" for none. */
    async diff(sessionId: string, root: string): Promise<string> {
      const patches = rows.firsts(sessionId, root).map(async ({ path, before }) => {
        const present = await locate(root, path).then(readFileText, (error: unknown) => inWords(error, path));
        if (typeof present === "string") return `${present}\n`;
        const [old, now] = [await bytesOf(before), present?.text ?? null];
        return old === now ? "" : patchOf(path, old, now);
      });
      return (await Promise.all(patches)).filter((patch) => patch !== "").join("\n");
    },
  };

  /** Restores a file; `why` is null when it is done, else the reason why not. A write that failed, as on a full disk, can be tried again. */
  async function takeBack(kept: Kept): Promise<{ readonly why: string | null; readonly isOver: boolean }> {
    let isOver = true;
    try {
      const write = await toRestore(kept, bytesOf);
      if (typeof write === "string") return { why: write, isOver };
      isOver = false;
      await write?.();
      return { why: null, isOver: true };
    } catch (error) {
      return { why: inWords(error, kept.path), isOver };
    }
  }
}

/** Resolves to the write that restores a file, to null where it is as it was, or to why it cannot be restored. */
async function toRestore(
  { root, path, before, after }: Kept,
  bytesOf: (hash: string | null) => Promise<string> | null,
) {
  const place = await locate(root, path);
  const present = await readFileText(place);
  if (typeof present === "string") return present;
  const now = hashOf(present?.bytes ?? null);
  // A write that failed has left the file as it was.
  if (now === hashOf(null) ? before === null : now === before) return null;
  if (place.path !== path || now !== after) return `${path} was changed since`;
  const text = await bytesOf(before);
  return () => replace(root, place, text);
}
