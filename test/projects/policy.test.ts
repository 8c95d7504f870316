/** The policy is total, never laxer than its table, and not to be deceived by spelling. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { readFileSync } from "node:fs";
import { acts, judge, pathKind, type Rules } from "../../src/projects/policy.ts";
import { pageUrl, withPolicy } from "../docs/policy.ts";

const rules = fc.record({
  run: fc.boolean(),
  ask: fc.constantFrom("writes" as const, "all" as const),
  isGranted: fc.boolean(),
});
const tools = fc.oneof(
  fc.constantFrom(...Object.keys(acts)),
  fc.string(),
  fc.constantFrom("constructor", "__proto__", "bash"),
);
const usual: Rules = { run: false, ask: "writes", isGranted: false };

test("every call whatever has one ruling, with a reason", () => {
  fc.assert(
    fc.property(
      tools,
      fc.option(fc.array(fc.string({ unit: "binary" }), { maxLength: 3 })),
      rules,
      (tool, paths, given) => {
        const { verdict, reason } = judge(tool, paths, given);
        expect(["free", "asks", "never"]).toContain(verdict);
        expect(reason.length).toBeGreaterThan(5);
      },
    ),
  );
});

test("what is not a tool, and what leads out of the folder, never happens", () => {
  fc.assert(
    fc.property(tools, rules, (tool, given) => {
      if (!(tool in acts) || !Object.keys(acts).includes(tool)) expect(judge(tool, ["a"], given).verdict).toBe("never");
      else if (tool !== "local_run") expect(judge(tool, null, given).verdict).toBe("never");
    }),
  );
});

test("a command and a secret are never free, whatever was said before", () => {
  const secrets = fc.constantFrom(
    ".env",
    "a/.env.local",
    "id_ed25519",
    "deploy/server.pem",
    ".git/config",
    "b/.ssh/known_hosts",
  );
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.keys(acts)),
      secrets,
      fc.array(fc.string()),
      rules,
      (tool, secret, more, given) => {
        expect(judge(tool, [...more, secret], given).verdict).not.toBe("free");
        expect(judge("local_run", [], given).verdict).toBe(given.run ? "asks" : "never");
      },
    ),
  );
});

test("always frees edits of ordinary files and nothing else", () => {
  const granted: Rules = { run: true, ask: "all", isGranted: true };
  expect(judge("local_edit", ["src/a.ts"], granted).verdict).toBe("free");
  expect(judge("local_write", ["notes/new.md"], granted).verdict).toBe("free");
  for (const path of [
    ".env",
    ".git/hooks/post-commit",
    "CLAUDE.md",
    "sub/AGENTS.md",
    ".github/workflows/x.yml",
    ".husky/pre-push",
  ])
    expect([path, judge("local_edit", [path], granted).verdict]).toEqual([path, "asks"]);
  expect(judge("local_run", [], granted).verdict).toBe("asks");
});

test.each([
  ".env",
  ".ENV",
  ".Env.Production",
  "x/.envrc",
  "prod.env",
  ".env-backup",
  ".env~",
  "..env.swp",
  "#.env#",
  ".#.env",
  "server.key.bak",
  "id.pem.old.1",
  "application_default_credentials.json",
  "prod.secrets.yaml",
  "db.secret",
  "sam_accessKeys.csv",
  "rootkey.csv",
  "kubeconfig",
  "prod.kubeconfig",
  ".yarnrc.yml",
  "config/credentials",
  "credentials.json",
  "secrets.yml",
  "Secrets/db.txt",
  "client_secret.apps.json",
  "service-account.json",
  "server.KEY",
  "cert.pem",
  "store.jks",
  "id_rsa",
  "id_rsa.pub",
  ".ssh/config",
  ".aws/credentials",
  ".npmrc",
  ".netrc",
  "_netrc",
  ".pgpass",
  ".git-credentials",
  ".git/config",
  ".GIT/Config",
  ".git/modules/sub/config",
  ".git/logs/HEAD",
  ".git/FETCH_HEAD",
  "dot/rclone.conf",
  "terraform.tfstate",
  "api_keys.json",
  "token.txt",
  ".bash_history",
  "a/b/keys.json",
  // Spellings that some file system takes for the same.
  ".en\u200dv",
  "．env",
  ".env.",
  ".env ",
  ".env::$DATA",
  "sub\\.env",
  ".g\u200cit/config",
])("%j may hold a secret", (path) => {
  expect(pathKind(path)).toBe("secret");
  expect(judge("local_read", [path], usual).verdict).toBe("asks");
});

test.each([
  "src/environment.ts",
  "docs/keyboard.md",
  "token.go",
  "src/tokens.ts",
  "README.md",
  "envoy.yaml",
  ".git/HEAD",
  ".gitignore",
  "monkey.txt",
  "a/secretary.ts",
  "src/use-credentials.ts",
  "design-tokens.json",
  "translation-keys.json",
  "notes.old",
  "",
])("%j is read freely", (path) => expect(judge("local_read", [path], usual).verdict).toBe("free"));

test.each(["a\nb", "x\u202etxt.exe", "a\rb", "\u0000", "tab\tname", "a\u2028b"])(
  "a name that would deceive the reader, %j, never passes",
  (path) => {
    for (const tool of ["local_read", "local_write"]) expect(judge(tool, [path], usual).verdict).toBe("never");
  },
);

test("docs/projects.md has the table that the policy makes (bun test/docs/policy.ts writes it)", () => {
  const page = readFileSync(pageUrl, "utf8");
  expect(page).toContain("<!-- policy -->");
  expect(withPolicy(page)).toBe(page);
});
