/** The event log of one session at the API: read in pages, and written to by events that are posted once. */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Millis, PromptFile, SessionEvent } from "../core/model.ts";
import type { ClaudeApi } from "./api.ts";
import { toBlocks } from "./blocks.ts";
import { claudeFailure, type Site } from "./failure.ts";
import type { Request } from "./line.ts";
import { fields, toSessionEvent } from "./wire.ts";

type EventQuery = NonNullable<Parameters<Anthropic["beta"]["sessions"]["events"]["list"]>[1]>;
type SentEvent = Anthropic.Beta.Sessions.EventSendParams["events"][number];

/** More than a turn has; the API would give 1,000, which results of tools could make too much for one answer. */
const pageMax = 250;
/** Prompts echo their files: small pages keep an answer small. */
const promptPageMax = 100;
/** Queued entries are at most the few that were posted while a turn ran. */
const queuedMax = 20;
const queuable: NonNullable<EventQuery["types"]> = [
  "user.message",
  "user.tool_confirmation",
  "user.custom_tool_result",
];
/** **Source:** SDK type `BetaManagedAgentsUserToolConfirmationEventParams`. */
const denyMessageMax = 10_000;

export function eventsOf(api: ClaudeApi, remoteId: string, signal: AbortSignal) {
  const site = { what: "list the session's events" };
  async function* pages(query: EventQuery): AsyncGenerator<SessionEvent[]> {
    for await (const page of walk(api, site, ({ beta }) => beta.sessions.events.list(remoteId, query, { signal })))
      yield page.map(toSessionEvent).filter((event) => event !== null);
  }
  return {
    /** By `processed_at` from a time on; then what is still queued, which no time filter matches. */
    async *list(part: Millis | "all" | "prompts"): AsyncGenerator<readonly SessionEvent[]> {
      if (part === "all") return yield* pages({ limit: pageMax, order: "asc" });
      if (part === "prompts") return yield* pages({ limit: promptPageMax, order: "asc", types: ["user.message"] });
      yield* pages({ "created_at[gte]": new Date(part).toISOString(), limit: pageMax, order: "asc" });
      for await (const newest of pages({ limit: queuedMax, order: "desc", types: queuable }))
        return yield newest.filter(({ at }) => at === null).reverse();
    },
    /** Posts events once; resolves to their echoes, null where there is none that can be read. */
    async send(what: string, events: SentEvent[], timeout: Millis): Promise<(SessionEvent | null)[]> {
      const options = { signal, timeout };
      const sent: unknown = await api.call({ what }, ({ beta }) =>
        beta.sessions.events.send(remoteId, { events }, options),
      );
      const { data } = fields(sent);
      return Array.isArray(data) ? data.map(toSessionEvent) : [];
    },
  };
}

type Page<T> = { readonly data: readonly T[]; iterPages(): AsyncIterable<Page<T>> };

/** Pages one by one; what was yielded before one fails stays valid. */
export async function* walk<T>(
  api: ClaudeApi,
  site: Site,
  list: (client: Anthropic) => PromiseLike<Page<T>>,
): AsyncGenerator<readonly T[]> {
  const first = await api.call(site, list);
  try {
    for await (const { data } of first.iterPages()) yield Array.isArray(data) ? data : [];
  } catch (error) {
    throw claudeFailure(site, error);
  }
}

/** @param mounted where the files are that do not go along as blocks */
export const toSentEvents = (requests: readonly Request[], mounted: ReadonlyMap<PromptFile, string>): SentEvent[] =>
  requests.map((request) => {
    switch (request.kind) {
      case "prompt":
        return { type: "user.message", content: toBlocks(request.text, request.files, mounted) };
      case "confirm":
        return {
          type: "user.tool_confirmation",
          tool_use_id: request.toolUseId,
          result: request.isAllowed ? "allow" : "deny",
          ...(request.isAllowed || request.reason === null
            ? {}
            : { deny_message: request.reason.slice(0, denyMessageMax) }),
        };
      case "result":
        return {
          type: "user.custom_tool_result",
          custom_tool_use_id: request.toolUseId,
          content: [{ type: "text", text: request.text.trim() === "" ? "(no output)" : request.text }],
          is_error: request.isError,
        };
      case "interrupt":
        return { type: "user.interrupt" };
    }
  });
