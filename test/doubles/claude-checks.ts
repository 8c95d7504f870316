/** What the double of the Claude API refuses, and how. */

export class Refusal extends Error {
  readonly status: number;
  readonly type: string;
  readonly errorCode: string | null;
  constructor(status: number, type: string, message: string, errorCode: string | null = null) {
    super(message);
    this.status = status;
    this.type = type;
    this.errorCode = errorCode;
  }
}

export const badRequest = (message: string, code: string | null = null): Refusal =>
  new Refusal(400, "invalid_request_error", message, code);
export const notFound = (what: string): Refusal => new Refusal(404, "not_found_error", `${what} not found`);

export type Body = Record<string, unknown>;

export function only(body: unknown, allowed: readonly string[], required: readonly string[] = []): Body {
  if (typeof body !== "object" || body === null || Array.isArray(body)) throw badRequest("body: object expected");
  for (const key of Object.keys(body))
    if (!allowed.includes(key)) throw badRequest(`${key}: extra inputs are not permitted`);
  for (const key of required) if ((body as Body)[key] === undefined) throw badRequest(`${key}: field required`);
  return body as Body;
}

/** A string, or nothing. */
export const text = (value: unknown): string => (typeof value === "string" ? value : "");

/** 16 pairs, keys of 64, values of 512. */
export function checkMetadata(bag: Record<string, unknown>): void {
  const pairs = Object.entries(bag);
  const isValid = pairs.every(([key, value]) => key.length <= 64 && typeof value === "string" && value.length <= 512);
  if (pairs.length > 16 || !isValid) throw badRequest("metadata", "invalid_metadata");
}

/** Content blocks as sessions and messages take them. */
export function checkContent(content: unknown): void {
  if (!Array.isArray(content) || content.length === 0) throw badRequest("content");
  for (const block of content) {
    const { type, ...fields } = block as Body;
    if (type === "text") {
      if (text(only(fields, ["text"], ["text"])["text"]).trim() === "")
        throw badRequest("text content blocks must be non-empty");
    } else if (type === "image" || type === "document") {
      const source = only(
        only(fields, type === "image" ? ["source"] : ["source", "title", "context"], ["source"])["source"],
        ["type", "media_type", "data"],
      );
      const isFitting =
        type === "image"
          ? source["type"] === "base64" && /^image\/(jpeg|png|gif|webp)$/u.test(text(source["media_type"]))
          : (source["type"] === "base64" && source["media_type"] === "application/pdf") ||
            (source["type"] === "text" && source["media_type"] === "text/plain");
      if (!isFitting) throw badRequest("source");
    } else throw badRequest(`content.type: ${text(type)}`);
  }
}
