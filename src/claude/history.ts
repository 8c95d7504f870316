/**
 * Turns the log that is kept here into the conversation as the Messages API wants it.
 *
 *   prompt      the text of a user's message        other `messages.user`       its whole content, where it is more than text
 *   reply       the text of an answer               other `messages.assistant`  its model and whole content, where it is more
 *
 * The log is read from the newest entry back until the budget is full, in tokens or in turns, so that a long one costs no more. Whole
 * blocks go back unchanged. A thinking block is bound to its model and to everything before it, so that once anything is left out, or
 * the model is another one, the thinking of turns that are over stays out too.
 * **Source:** Claude API guide, "Building with extended thinking", and "Thinking blocks are tied to the model and the conversation".
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { JsonValue, Millis, SessionEvent } from "../core/model.ts";
import { fields, string } from "./wire.ts";

export type ContentBlock = { readonly [key: string]: JsonValue };
export type Message = { role: "user" | "assistant"; content: ContentBlock[] };

/** A call of one of our tools that waits for its result: its entry in the log, and its id for the API. */
export type OpenUse = { readonly entryId: string; readonly blockId: string };

export type History = {
  /** Oldest first, the roles in turn, beginning with the user. */
  readonly messages: Message[];
  readonly open: readonly OpenUse[];
  /** The time of the newest entry; 0 where there is none. */
  readonly lastAt: Millis;
};

export const userRaw = "messages.user";
export const assistantRaw = "messages.assistant";

/** The id of a tool use's entry holds the one that the API gave it, which need not be unique. */
export const toUseId = (turnId: string, index: number, blockId: string): string => `${turnId}:use${index}:${blockId}`;
const blockIdOf = (entryId: string): string => entryId.replace(/^.*?:use\d+:/u, "");

/** Estimates the tokens of a text, on the safe side: about 3 bytes each, and a little for the frame of a message. */
export const estimateTokens = (text: string): number => Math.ceil(new TextEncoder().encode(text).length / 3) + 8;

/** About the most tokens of a picture, and about the characters of a PDF's base64 that cost one token. */
const imageTokens = 1_600;
const base64PerToken = 40;
/** The bounds of all pictures and documents together: the API wants smaller pictures where there are more than 20. */
const historyBase64Max = 12 * 2 ** 20;
const filesMax = 20;
/** Bounds short turns: thousands would fit the budget, and take longer to read than all other work for an answer. */
const turnsMax = 500;

type Turn = { readonly messages: Message[]; readonly tokens: number; readonly id: string; readonly open: OpenUse[] };
/** `isWhole`: no picture or document was left out. */
type Room = { tokens: number; base64: number; files: number; isWhole: boolean };

/** @param log newest first, read as far as there is room @param tokensMax the budget of all messages, about */
export function toHistory(log: Iterable<SessionEvent>, model: string, tokensMax: number): History {
  const room: Room = { tokens: tokensMax, base64: historyBase64Max, files: filesMax, isWhole: true };
  const turns: Turn[] = [];
  let entries: SessionEvent[] = [];
  let lastAt = 0;
  let isTrimmed = false;
  for (const entry of log) {
    lastAt = Math.max(lastAt, entry.at ?? 0);
    entries.push(entry);
    if (entry.type !== "prompt") continue;
    const turn = toTurn(entries.reverse(), model, room);
    entries = [];
    // The turn whose tool uses wait for results goes along at any length.
    isTrimmed = turns.length >= turnsMax || (turn.tokens > room.tokens && (turns.length > 0 || turn.open.length === 0));
    if (isTrimmed) break;
    room.tokens -= turn.tokens;
    turns.push(turn);
  }
  const kept = isTrimmed ? fromAnchor(turns) : turns;
  const open = kept[0]?.open ?? [];
  const isBare = (index: number): boolean => (index > 0 || open.length === 0) && (isTrimmed || !room.isWhole);
  const messages = kept.map((turn, index) => (isBare(index) ? turn.messages.map(withoutThinking) : turn.messages));
  const merged = mergeNeighbours(messages.reverse().flat());
  // Results of an open turn may be still to come: `settle` would answer those tool uses as interrupted.
  return { messages: open.length > 0 ? merged : settle(merged), open, lastAt };
}

/**
 * Cuts the turns to begin at one turn in eight, chosen by its id alone, so that the beginning moves seldom and the API can cache the rest.
 * @param turns newest first
 */
function fromAnchor(turns: readonly Turn[]): readonly Turn[] {
  const isAnchor = ({ id }: Turn): boolean =>
    new TextEncoder().encode(id).reduce((hash, byte) => (hash * 31 + byte) >>> 0, 7) % 8 === 0;
  const at = turns.findLastIndex(isAnchor);
  return at < 0 ? turns : turns.slice(0, at + 1);
}

const isThinking = ({ type }: ContentBlock): boolean => type === "thinking" || type === "redacted_thinking";
const withoutThinking = ({ role, content }: Message): Message => ({
  role,
  content: content.filter((block) => !isThinking(block)),
});
/** The conversation without any thinking, for an endpoint that does not take its own thinking back. */
export const withoutAnyThinking = (messages: readonly Message[]): Message[] => settle(messages.map(withoutThinking));

const withoutCitations = (block: ContentBlock): ContentBlock =>
  Object.fromEntries(Object.entries(block).filter(([key]) => key !== "citations"));
const isSearch = ({ type }: ContentBlock): boolean => /^server_tool_use$|._tool_result$/u.test(string(type));

/** The conversation without its searches, for an endpoint without a search; thinking goes too, as it is bound to them. */
export function withoutSearches(messages: readonly Message[]): readonly Message[] {
  if (!messages.some(({ content }) => content.some(isSearch))) return messages;
  const plain = messages.map(({ role, content }) => ({
    role,
    content: content.filter((block) => !isSearch(block)).map(withoutCitations),
  }));
  return withoutAnyThinking(plain);
}

const toText = (text: string): ContentBlock[] => (text.trim() === "" ? [] : [{ type: "text", text }]);
const contentOf = (raw: JsonValue | undefined): ContentBlock[] => {
  const { content } = fields(raw);
  return Array.isArray(content) ? (content as ContentBlock[]) : [];
};

/** The messages of a turn: from a prompt to before the next, oldest first. A declined turn is left out, or Claude would decline again. */
function toTurn(entries: readonly SessionEvent[], model: string, room: Room): Turn {
  const messages: Message[] = [];
  const uses = new Map<string, OpenUse>();
  const say = (role: Message["role"], content: ContentBlock[]): void => void messages.push({ role, content });
  let isCovered = false;
  for (const entry of entries) {
    if (entry.type === "prompt") say("user", toText(entry.text));
    else if (entry.type === "reply" && !isCovered) say("assistant", toText(entry.text));
    else if (entry.type === "tool_use" && entry.isLocal)
      uses.set(entry.id, { entryId: entry.id, blockId: blockIdOf(entry.id) });
    else if (entry.type === "tool_result") uses.delete(entry.toolUseId);
    else if (entry.type === "other" && entry.name === userRaw) {
      const content = contentOf(entry.raw).map((block) => keepOrName(block, room));
      // The content of a prompt stands in place of its text.
      if (messages.length === 1 && content.some(({ type }) => type !== "tool_result")) messages.pop();
      say("user", content);
    } else if (entry.type === "other" && entry.name === assistantRaw) {
      const isOurs = string(fields(entry.raw)["model"]) === model;
      const content = contentOf(entry.raw).filter((block) => isOurs || !isThinking(block));
      say("assistant", content);
    }
    if (entry.type === "other" && entry.raw !== undefined) isCovered = entry.name === assistantRaw;
  }
  const last = entries.findLast((entry) => entry.type === "idle");
  const isDeclined = last?.type === "idle" && last.stop.kind === "refusal";
  const said = isDeclined ? [] : messages.filter(({ content }) => content.length > 0);
  const tokens = said.reduce((sum, { content }) => sum + content.reduce((cost, block) => cost + tokensOf(block), 0), 0);
  return { messages: said, tokens, id: entries[0]?.id ?? "", open: [...uses.values()] };
}

const dataOf = (block: ContentBlock): string => string(fields(block["source"])["data"]);
const isFile = ({ type }: ContentBlock): boolean => type === "image" || type === "document";

function tokensOf(block: ContentBlock): number {
  if (block["type"] === "image") return imageTokens;
  const isBase64 = fields(block["source"])["type"] === "base64";
  return isBase64 ? Math.ceil(dataOf(block).length / base64PerToken) : estimateTokens(JSON.stringify(block));
}

/** Keeps a picture or a document that fits its budget; else only names it. */
function keepOrName(block: ContentBlock, room: Room): ContentBlock {
  if (!isFile(block)) return block;
  const size = dataOf(block).length;
  if (size <= room.base64 && room.files > 0 && tokensOf(block) <= room.tokens) {
    room.base64 -= size;
    room.files--;
    return block;
  }
  room.isWhole = false;
  return { type: "text", text: block["type"] === "image" ? "[picture sent]" : "[document sent]" };
}

/** Merges neighbours of one role into one message, beginning with the user: an answer whose prompt is gone goes too. */
export function mergeNeighbours(messages: readonly Message[]): Message[] {
  const merged: Message[] = [];
  for (const { role, content } of messages) {
    const last = merged.at(-1);
    if (last?.role === role) last.content = [...last.content, ...content];
    else if (last || role === "user") merged.push({ role, content: [...content] });
  }
  return merged;
}

/** Gives every tool use its result right after it, and drops a result that stands alone: the API would refuse the conversation for ever. */
export function settle(messages: Message[]): Message[] {
  messages.forEach((message, index) => {
    if (message.role !== "user") return;
    const before = index === 0 ? [] : (messages[index - 1]?.content ?? []);
    const ids = new Set(before.flatMap((block) => (block["type"] === "tool_use" ? [block["id"]] : [])));
    const kept = message.content.filter(
      ({ type, tool_use_id }) => type !== "tool_result" || ids.has(tool_use_id ?? null),
    );
    for (const { tool_use_id } of kept) ids.delete(tool_use_id ?? null);
    const missing = [...ids].map((id) => toResultBlock(string(id), "It was interrupted.", true));
    const results = kept.filter(({ type }) => type === "tool_result");
    message.content = [...results, ...missing, ...kept.filter(({ type }) => type !== "tool_result")];
  });
  const kept = messages.filter(({ content }) => content.length > 0);
  return kept.length === messages.length ? messages : settle(mergeNeighbours(kept));
}

export const toResultBlock = (tool_use_id: string, content: string, is_error: boolean): ContentBlock => ({
  type: "tool_result",
  tool_use_id,
  content: content.trim() === "" ? "(no output)" : content,
  is_error,
});

/** The messages as the SDK takes them, with a cache breakpoint on the last block of the last user message. */
export function toParams(messages: readonly Message[], isCached: boolean): Anthropic.MessageParam[] {
  const last = messages.findLastIndex(({ role }) => role === "user");
  return messages.map(({ role, content }, index) => {
    const blocks = content.map((block, at) =>
      isCached && index === last && at === content.length - 1
        ? { ...block, cache_control: { type: "ephemeral" } }
        : block,
    );
    return { role, content: blocks } as unknown as Anthropic.MessageParam;
  });
}
