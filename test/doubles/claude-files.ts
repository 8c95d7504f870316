/**
 * The Files half of the API double: what agents saved in /mnt/session/outputs/, listed under the session's id some seconds
 * after it was made, and its bytes. **Source:** SDK types BetaFileMetadata; Managed Agents guide.
 */
import { notFound, badRequest } from "./claude-checks.ts";

export type DoubleFile = {
  readonly id: string;
  readonly sessionId: string;
  readonly filename: string;
  readonly mime_type: string;
  readonly bytes: Uint8Array;
  readonly created_at: string;
  /** Listed from here on, by the server's clock. */
  readonly visibleAt: number;
  /** False of what was uploaded. */
  readonly downloadable: boolean;
  /** Where it is in the sandbox, of what was mounted into the session. */
  readonly mountPath?: string | null;
};

/** The bytes of a file instead of JSON. */
export class Download {
  readonly file: DoubleFile;
  constructor(file: DoubleFile) {
    this.file = file;
  }
}

export type FilesRequest = {
  readonly line: string;
  readonly id: string;
  readonly params: URLSearchParams;
  readonly betas: string;
  readonly accept: string;
  readonly now: number;
  readonly newId: (prefix: string) => string;
  /** Of an upload. */
  readonly form: FormData | null;
};

export function files(
  all: Map<string, DoubleFile>,
  page: (data: readonly unknown[], params: URLSearchParams) => unknown,
  { line, id, params, betas, accept, now, newId, form }: FilesRequest,
): unknown {
  const allowed = line === "GET files" ? ["scope_id", "limit", "page", "ids[]"] : [];
  for (const key of params.keys()) if (!allowed.includes(key)) throw badRequest(`${key}: unknown query parameter`);
  // The header of the first beta selects pages of another shape.
  if (betas.includes("files-api-2025-04-14")) throw badRequest("this double knows the present shapes only");
  const visible = [...all.values()].filter((file) => file.visibleAt <= now);
  switch (line) {
    case "GET files": {
      const scope = params.get("scope_id");
      if (scope !== null && !betas.includes("managed-agents-2026-04-01"))
        throw badRequest("scope_id: needs its anthropic-beta header");
      // Newest first, as the other lists.
      return page(
        visible
          .filter((file) => scope === null || file.sessionId === scope)
          .map(toWire)
          .toReversed(),
        params,
      );
    }
    case "GET files/:id/content": {
      const file = visible.find((found) => found.id === id);
      if (!file) throw notFound("file");
      if (!file.downloadable) throw badRequest("file is not downloadable", "file_not_downloadable");
      if (accept !== "application/binary") throw badRequest("accept");
      return new Download(file);
    }
    case "POST files": {
      const file = form?.get("file");
      if (!(file instanceof File)) throw badRequest("file: field required");
      const seconds = Number(form?.get("expires_in_seconds") ?? 3_600);
      if (!(seconds >= 3_600 && seconds <= 7_776_000)) throw badRequest("expires_in_seconds");
      const created_at = new Date(now).toISOString();
      const own = { id: newId("file"), sessionId: "", filename: file.name, mime_type: file.type };
      const made = { ...own, bytes: new Uint8Array(file.size), created_at, visibleAt: now, downloadable: false };
      all.set(made.id, made);
      return toWire(made);
    }
    case "DELETE files/:id":
      if (!all.delete(id)) throw notFound("file");
      return { id, type: "file_deleted" };
    default:
      throw notFound("path");
  }
}

const toWire = ({ id, sessionId, filename, mime_type, bytes, created_at, downloadable }: DoubleFile): object => ({
  type: "file",
  id,
  filename,
  mime_type,
  size_bytes: bytes.length,
  created_at,
  downloadable,
  expires_at: null,
  scope: { type: "session", id: sessionId },
});
