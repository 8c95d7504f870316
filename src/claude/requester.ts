/**
 * Makes a request to the Messages API, without the fields that its endpoint refuses. Compatible endpoints and older models refuse fields
 * that others need: a field that a refusal names is left out, at once and from then on. A refused request costs nothing.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { ClaudeApi, Watch } from "./api.ts";
import { refusalOf } from "./failure.ts";
import { toParams, withoutAnyThinking, withoutSearches, type Message } from "./history.ts";
import type { SessionView } from "./line.ts";
import { toToolParam } from "./wire.ts";

/** `max_tokens` where the model's own limit is not known. Thinking counts too: a lower limit may be used up before the reply begins. */
const defaultOutputTokens = 32_000;
const triesMax = 3;
const searchesMax = 5;

type Feature = "cache" | "effort" | "search" | "thinking" | "tools";

/** The words of a refusal that name a feature. */
const features: readonly (readonly [Feature, RegExp])[] = [
  ["cache", /cache_control|cache/iu],
  ["effort", /output_config|effort/iu],
  ["search", /web_search|server tools?|tools\.\d+\D*(type|tag)|tool types?/iu],
  ["thinking", /thinking|signature/iu],
  ["tools", /support\w* (?:tools?|functions?)|(?:tools?|functions?) (?:use|calls?|calling)\b/iu],
];
const isUnnamed = /extra inputs|extra fields|unknown (field|parameter)|unrecognized|unexpected/iu;
const tooManyTokens = /max_tokens\D*(\d+)\D+(\d+)/u;

type Options = { readonly signal: AbortSignal; readonly timeout: Millis; readonly watch: Watch };

export type Requester = ReturnType<typeof createRequester>;

export function createRequester(api: ClaudeApi, hasWebSearch: boolean) {
  const refused = new Set<string>();
  const outputMax = new Map<string, number>();
  const limitOf = async (model: string, signal: AbortSignal): Promise<number> => {
    const known = outputMax.get(model);
    if (known !== undefined) return known;
    // A look-up that fails counts as an unknown limit, since the prompt must not wait for another.
    const found = await api.model(model, signal).catch(() => null);
    const limit = found?.outputTokensMax ?? defaultOutputTokens;
    if (!signal.aborted) outputMax.set(model, limit);
    return limit;
  };
  /** The key under which a refusal is remembered: thinking is refused in one conversation, any other feature for a model. */
  const keyOf = (feature: Feature, { id, model }: SessionView): string =>
    feature === "thinking" ? `thinking ${id}` : `${feature} ${model}`;
  /** Remembers the refused feature; true where the request may go out once more without it. */
  const learn = (error: unknown, sent: readonly Feature[], asked: number, session: SessionView): boolean => {
    const { status, type, sentence } = refusalOf(error) ?? { status: null, type: null, sentence: "" };
    const isRefusal = status === 400 || status === 422 || type === "invalid_request_error" || isUnnamed.test(sentence);
    if (!isRefusal || /prompt is too long/iu.test(sentence)) return false;
    const [, first, second] = tooManyTokens.exec(sentence) ?? [];
    const limit = Math.min(Number(first), Number(second));
    if (limit > 0 && limit < asked) {
      outputMax.set(session.model, limit);
      return true;
    }
    const left = features.filter(([feature]) => sent.includes(feature));
    const named = left.filter(([, pattern]) => pattern.test(sentence));
    // A refusal of an unnamed field is about a newer one: not thinking, which stands in messages, nor tools, which are old.
    const isNew = (feature: Feature): boolean => feature !== "thinking" && feature !== "tools";
    const guessed = isUnnamed.test(sentence) ? left.filter(([feature]) => isNew(feature)) : [];
    const found = named.length > 0 ? named : guessed;
    for (const [feature] of found) refused.add(keyOf(feature, session));
    return found.length > 0;
  };
  /** Yields the frames of the answer. @throws BridgeError */
  return async function* (
    session: SessionView,
    messages: readonly Message[],
    { signal, timeout, watch }: Options,
  ): AsyncGenerator {
    const limit = await limitOf(session.model, signal);
    if (signal.aborted) throw new BridgeError("claude_unreachable", "Cannot ask Claude as it was given up");
    const useful = features.map(([feature]) => feature).filter((feature) => feature !== "search" || hasWebSearch);
    for (let tries = 1; ; tries++) {
      const sent = useful.filter((feature) => !refused.has(keyOf(feature, session)));
      const params = toRequest(session, messages, outputMax.get(session.model) ?? limit, sent);
      let hasBegun = false;
      try {
        const site = { what: "ask Claude", notFound: "claude_model" } as const;
        const ask = (client: Anthropic, options: object) => client.messages.create(params, { ...options, timeout });
        for await (const frame of await api.stream(site, ask, signal, watch)) {
          hasBegun = true;
          yield frame;
        }
        return;
      } catch (error) {
        if (hasBegun || tries >= triesMax || !learn(error, sent, params.max_tokens, session)) throw error;
      }
    }
  };
}

function toRequest(
  { model, effort, system, tools }: SessionView,
  messages: readonly Message[],
  max_tokens: number,
  sent: readonly Feature[],
): Anthropic.MessageCreateParamsStreaming {
  const has = (feature: Feature): boolean => sent.includes(feature);
  const said = has("search") ? messages : withoutSearches(messages);
  const search = { type: "web_search_20250305", name: "web_search", max_uses: searchesMax } as const;
  const all = has("tools") ? [...(has("search") ? [search] : []), ...tools.map(toToolParam)] : [];
  return {
    model,
    max_tokens,
    ...(system === "" ? {} : { system }),
    messages: toParams(has("thinking") ? said : withoutAnyThinking(said), has("cache")),
    ...(all.length === 0 ? {} : { tools: all }),
    ...(has("effort") ? { output_config: { effort: effort as "medium" } } : {}),
    stream: true,
  };
}
