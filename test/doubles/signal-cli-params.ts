/** How signal-cli reads parameters: two typed methods that refuse unknown keys, and map methods that ignore them. */
type Params = Readonly<Record<string, unknown>>;
type Kind = "string" | "list" | "longs" | "bool" | "long";

const targets = { recipient: "list", groupId: "list", noteToSelf: "bool", username: "list" } as const;

/** Every method of an account, with the keys it knows. Plurals of lists are accepted too. */
export const typedKeys: Readonly<Record<string, Readonly<Record<string, Kind>>>> = {
  receive: {},
  send: {
    ...targets,
    message: "string",
    attachment: "list",
    textStyle: "list",
    mention: "list",
    notifySelf: "bool",
    quoteTimestamp: "long",
    quoteAuthor: "string",
    quoteMessage: "string",
    editTimestamp: "long",
  },
  sendReaction: { ...targets, emoji: "string", targetAuthor: "string", targetTimestamp: "long", remove: "bool" },
  submitRateLimitChallenge: { challenge: "string", captcha: "string" },
  sendTyping: { recipient: "list", groupId: "list", stop: "bool" },
  sendReceipt: { recipient: "string", targetTimestamp: "longs", type: "string" },
  listIdentities: { number: "string" },
  getUserStatus: { recipient: "list", username: "list" },
  listContacts: { recipient: "list", allRecipients: "bool", name: "string" },
  getAttachment: { id: "string", recipient: "string", groupId: "string" },
  updateProfile: {},
};

const typed: Readonly<Record<string, { readonly className: string; readonly keys: readonly string[] }>> = {
  receive: { className: "ReceiveCommand$ReceiveParams", keys: ["maxMessages", "timeout"] },
};

/** Refuses as signal-cli does; notes in `violations` what it would have ignored. */
export function checkParams(
  method: string,
  params: Params | undefined,
  violations: string[],
  refuse: (code: number, message: string) => never,
): void {
  const shape = typed[method];
  if (shape) {
    if (!params) return refuse(-32603, `Cannot invoke because "request" is null (NullPointerException)`);
    const stray = Object.keys(params).find((key) => !shape.keys.includes(key));
    if (stray !== undefined)
      refuse(-32600, `Unrecognized field "${stray}" (class org.asamk.signal.commands.${shape.className})`);
    for (const key of ["timeout", "maxMessages"])
      if (key in params && typeof params[key] !== "number") refuse(-32600, `Cannot deserialize value of ${key}`);
    return;
  }
  const keys = typedKeys[method];
  for (const [key, value] of Object.entries(params ?? {})) {
    const kind = keys?.[key] ?? (keys?.[key.replace(/s$/u, "")] === "list" ? "plural" : undefined);
    if (kind === undefined && key !== "account") violations.push(`${method} ignores ${key}`);
    else if (kind && !isOfKind(value, kind))
      refuse(-32603, `class java.lang.Object cannot be cast to the type of ${key} (ClassCastException)`);
  }
}

function isOfKind(value: unknown, kind: Kind | "plural"): boolean {
  switch (kind) {
    case "bool":
      return typeof value === "boolean";
    case "long":
      return isLong(value);
    case "longs":
      return Array.isArray(value) ? value.every(isLong) : isLong(value);
    case "list":
      return Array.isArray(value) ? value.every((item) => typeof item === "string") : typeof value === "string";
    case "plural":
      return Array.isArray(value) && value.every((item) => typeof item === "string");
    case "string":
      return typeof value !== "object" || value === null;
  }
}

/** Smaller integers are read as 32-bit ones, and then cannot be cast. */
const isLong = (value: unknown): boolean => Number.isSafeInteger(value) && Number(value) >= 2 ** 31;
