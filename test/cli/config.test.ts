import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../src/config.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { nearest, nearestModel } from "../../src/core/nearest.ts";
import { isLoopback } from "../../src/loopback.ts";
import { fileKey, flagOf, settingKeys, settingRow, variableOf } from "../../src/settings.ts";

let home: string;
beforeEach(() => void (home = mkdtempSync(join(tmpdir(), "signalman-config-"))));
afterEach(() => rmSync(home, { recursive: true, force: true }));

const file = (text: string, mode = 0o600): void => {
  writeFileSync(join(home, "config.toml"), text);
  chmodSync(join(home, "config.toml"), mode);
};
const load = (env: Record<string, string> = {}, flags: Record<string, string> = {}) =>
  loadConfig({ flags: { home, ...flags }, env });
const failure = (work: () => unknown): BridgeError => {
  try {
    work();
  } catch (error) {
    if (error instanceof BridgeError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
};

describe("settings", () => {
  test("have the defaults of the design", () => {
    const { config, origins, warnings } = load();
    expect(config).toMatchObject({
      home,
      transport: "native",
      signalUrl: "http://127.0.0.1:8080",
      signalService: "production",
      proxy: null,
      account: null,
      allow: [{ kind: "self" }],
      backend: "auto",
      model: "claude-sonnet-5-5",
      tools: "ask",
      listen: { host: "127.0.0.1", port: 8787 },
      trustListen: false,
      log: "info",
      anthropicApiKey: null,
      anthropicBaseUrl: null,
      limits: { staleAfterMs: 90_000, stableAfterMs: 30_000, drainMs: 10_000, retentionDays: 30 },
    });
    expect(config.system).toContain("phone");
    expect(origins.model).toBe("default");
    expect(origins.home).toBe("flag");
    expect(warnings).toEqual([]);
    expect(Object.isFrozen(config)).toBe(true);
    expect(Object.isFrozen(config.limits)).toBe(true);
  });

  test("come from the file, over it from the environment, over that from flags", () => {
    file('model = "from-file"\nbackend = "messages"\nlog = "error"\nretention_days = 3\ntrust_listen = true\n');
    const { config, origins } = load({ SIGNALMAN_MODEL: "from-env", SIGNALMAN_LOG: "warn" }, { log: "debug" });
    expect([config.backend, config.model, config.log]).toEqual(["messages", "from-env", "debug"]);
    expect([origins.backend, origins.model, origins.log]).toEqual(["file", "environment", "flag"]);
    expect(config.limits.retentionDays).toBe(3);
    expect(config.trustListen).toBe(true);
  });

  test("find the home folder in the environment when no flag names it", () => {
    file('model = "from-file"\n');
    expect(loadConfig({ flags: {}, env: { SIGNALMAN_HOME: home } }).config.model).toBe("from-file");
  });

  test("take an empty variable for one that is not set", () => {
    expect(load({ SIGNALMAN_ACCOUNT: "", SIGNALMAN_MODEL: "" }).config.account).toBeNull();
  });

  test("accept the default of every row as a person would write it, in the environment", () => {
    const env = Object.fromEntries(
      settingKeys.flatMap((key) => {
        const { fallback } = settingRow(key);
        return fallback === null ? [] : [[variableOf(key), fallback]];
      }),
    );
    expect(load(env).config).toEqual(load().config);
  });

  test("have names that follow one rule", () => {
    expect(fileKey("signalUrl")).toBe("signal_url");
    expect(variableOf("signalUrl")).toBe("SIGNALMAN_SIGNAL_URL");
    expect(variableOf("anthropicApiKey")).toBe("ANTHROPIC_API_KEY");
    expect(flagOf("signalUrl")).toBe("--signal-url <url>");
    expect(flagOf("anthropicApiKey")).toBeNull();
    for (const key of settingKeys) expect(settingRow(key).doc).not.toEndWith(".");
  });
});

describe("the allow list", () => {
  const aci = "0b9a1c52-6f3e-4d28-9c57-1a2b3c4d5e6f";
  const group = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

  test("knows numbers, account ids, self and groups, from a comma list or an array", () => {
    const rules = [
      { kind: "self" },
      { kind: "number", number: "+15550100001" },
      { kind: "aci", aci },
      { kind: "group", id: group },
    ];
    const env = { SIGNALMAN_ALLOW: `self, +15550100001,${aci.toUpperCase()} , group:${group}` };
    expect(load(env).config.allow).toEqual(rules as never);
    file(`allow = ["self", "+15550100001", "${aci}", "group:${group}"]\n`);
    expect(load().config.allow).toEqual(rules as never);
  });

  const short = `group:${group.slice(0, 40)}`;
  const old = "group:q83vEjRWeJCrze8SNFZ4kA==";
  test.each(["0155501", "+0155501000", "somebody", "group:", "group:not base64!", short, old, "self;+15550100001"])(
    "refuses %p and names the accepted form",
    (word) => {
      const error = failure(() => load({ SIGNALMAN_ALLOW: word }));
      expect(error.code).toBe("config");
      expect(error.message).toContain("SIGNALMAN_ALLOW");
      expect(error.message).toContain("group:<id in standard base64>");
    },
  );
});

describe("the nearest word", () => {
  const commands = ["help", "new", "sessions", "run"];
  test.each([
    ["hlep", "help"],
    ["rnu", "run"],
    ["nwe", "new"],
    ["SESSION", "sessions"],
    ["weather", null],
    ["", null],
  ])("of %p is %p", (word, near) => expect(nearest(word, commands)).toBe(near));

  test.each([
    ["opus", "claude-opus-5-5"],
    ["claude-haiku", "claude-haiku-5-5"],
    ["claude-sonet-5-5", "claude-sonnet-5-5"],
    ["claude-opsu-5-5", "claude-opus-5-5"],
    ["gpt", null],
  ])("model to %p is %p", (word, near) =>
    expect(nearestModel(word, ["claude-sonnet-5-5", "claude-opus-5-5", "claude-haiku-5-5"])).toBe(near),
  );

  test("of a megabyte is none: compared letter by letter it would take longer than a test may", () => {
    expect(nearest("a".repeat(1_000_000), commands)).toBeNull();
  });
});

describe("what cannot be", () => {
  test("an unknown key of the file is an error that names the nearest", () => {
    file('signal_ulr = "http://127.0.0.1:1"\n');
    const error = failure(load);
    expect(error.code).toBe("config");
    expect(error.message).toContain('"signal_ulr"');
    expect(error.hint).toContain("signal_url");
  });

  test("an unknown key like no other lists them all", () => {
    file("zzzzzzzzzz = 1\n");
    expect(failure(load).hint).toContain("signal_url, ");
  });

  test("the home folder cannot be set by the file inside it", () => {
    file('home = "/elsewhere"\n');
    expect(failure(load).message).toContain('"home"');
  });

  test("a file that is not TOML is an error that names it", () => {
    file("model = \n");
    expect(failure(load).message).toContain("config.toml");
    file('log = "info"\nmodel = "x\n');
    expect(failure(load).message).toEndWith("(line 2)");
  });

  test("an unknown variable is a warning that names the nearest", () => {
    const { warnings } = load({ SIGNALMAN_MODLE: "x", SIGNALMAN_TYPO: "1", OTHER: "y" });
    expect(warnings).toEqual([
      "The variable SIGNALMAN_MODLE is not known; did you mean SIGNALMAN_MODEL?",
      "The variable SIGNALMAN_TYPO is not known",
    ]);
  });

  test.each([
    ["SIGNALMAN_TRANSPORT", "carrier-pigeon", "native, signal-cli or rest"],
    ["SIGNALMAN_SIGNAL_URL", "127.0.0.1:8080", "http://127.0.0.1:8080"],
    ["SIGNALMAN_SIGNAL_URL", "ftp://x", "http://127.0.0.1:8080"],
    ["SIGNALMAN_ACCOUNT", "5550100001", "country code"],
    ["SIGNALMAN_LISTEN", "8787", "host:port"],
    ["SIGNALMAN_LISTEN", "127.0.0.1:99999", "host:port"],
    ["SIGNALMAN_LOG", "loud", "debug, info, warn or error"],
    ["SIGNALMAN_RETENTION_DAYS", "0", "1 to 3650"],
    ["SIGNALMAN_RETENTION_DAYS", "1e2", "1 to 3650"],
    ["SIGNALMAN_REACTIONS", "👍", "true or false"],
    ["SIGNALMAN_TRUST_LISTEN", "perhaps", "true or false"],
  ])("%s=%s is refused by name with the accepted form", (name, value, accepts) => {
    const error = failure(() => load({ [name]: value }));
    expect(error.code).toBe("config");
    expect(error.message).toContain(name);
    expect(error.message).toContain(accepts);
  });

  test("an error names the place where the value was given", () => {
    file('backend = "mesages"\n');
    expect(failure(load).message).toContain("backend:");
    expect(failure(() => load({}, { backend: "x" })).message).toContain("--backend:");
  });

  test("an error shows neither a whole number nor a key", () => {
    expect(failure(() => load({ SIGNALMAN_ALLOW: "+15550100001,nobody" })).message).not.toContain("5550100001");
    file('anthropic_api_key = ["sk-ant-secret"]\n');
    expect(failure(load).message).not.toContain("secret");
  });
});

describe("safety", () => {
  test("a file with a key that others may read is refused; without a key it is not", () => {
    file('anthropic_api_key = "sk-ant-invented"\n', 0o644);
    const error = failure(load);
    expect([error.code, error.hint]).toEqual(["config", expect.stringContaining("chmod 600")]);
    file('anthropic_api_key = "sk-ant-invented"\n', 0o600);
    expect(load().config.anthropicApiKey).toBe("sk-ant-invented");
    file('model = "a-model"\n', 0o644);
    expect(load().config.model).toBe("a-model");
  });

  test("listening beyond this machine needs a word of trust", () => {
    for (const listen of ["0.0.0.0:8787", "[::]:8787", "192.0.2.1:80", "example.test:80"]) {
      const env = { SIGNALMAN_LISTEN: listen };
      expect(failure(() => load(env)).hint).toContain("SIGNALMAN_TRUST_LISTEN");
      expect(load({ ...env, SIGNALMAN_TRUST_LISTEN: "true" }).config.listen?.host).not.toBeUndefined();
    }
    for (const listen of ["127.0.0.1:0", "[::1]:8787", "localhost:1"])
      expect(load({ SIGNALMAN_LISTEN: listen }).config.listen?.port).toBeNumber();
    expect(load({ SIGNALMAN_LISTEN: "off" }).config.listen).toBeNull();
    expect(load({ SIGNALMAN_LISTEN: "[::1]:8787" }).config.listen).toEqual({ host: "::1", port: 8787 });
  });
});

describe("the system prompt", () => {
  test("can stand in a file, which the settings file names from its own folder", () => {
    writeFileSync(join(home, "prompt.md"), "Speak like a pirate.\n");
    file('system = "@prompt.md"\n');
    expect(load().config.system).toBe("Speak like a pirate.");
    expect(load({ SIGNALMAN_SYSTEM: `@${join(home, "prompt.md")}` }).config.system).toBe("Speak like a pirate.");
    expect(load({ SIGNALMAN_SYSTEM: "Be brief." }).config.system).toBe("Be brief.");
  });

  test("a file that is not there is an error", () => {
    expect(failure(() => load({ SIGNALMAN_SYSTEM: "@/nowhere/prompt.md" })).message).toContain("/nowhere/prompt.md");
  });
});

const here = ["localhost", "LOCALHOST", "127.0.0.1", "127.255.0.9", "::1", "[::1]"];
const elsewhere = [
  "",
  "0.0.0.0",
  "::",
  "[::2]",
  "126.0.0.1",
  "127.0.0",
  "127.0.0.256",
  "127.1.2.3.4",
  "127.0.0.1.example",
  "x127.0.0.1",
  "localhost.example",
  "a.localhost",
  "notlocalhost",
  "[127.0.0.1",
];
test.each([...here.map((host) => [host, true] as const), ...elsewhere.map((host) => [host, false] as const)])(
  "%p is this machine: %p",
  (host, isHere) => expect(isLoopback(host)).toBe(isHere),
);
