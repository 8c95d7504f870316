import { expect, test } from "bun:test";
import { isKept, runCampaign } from "./campaign.ts";
import { runGarden } from "./garden.ts";

// Through a daemon every kill leaves a poll behind that holds the account for seconds: few kills there.
test.concurrent.each([
  { transport: "native", kills: 10 },
  { transport: "signal-cli", kills: 3 },
  { transport: "rest", kills: 3 },
] as const)(
  "$transport, killed $kills times at any instant: the promise is kept",
  async ({ transport, kills }) => {
    const tally = await runCampaign({ transport, kills, seed: 7 });
    expect({ ...tally, isKept: isKept(tally) }).toMatchObject({ lost: 0, askedTwice: 0, strange: [], isKept: true });
    expect(tally.answered).toBeGreaterThan(0);
  },
  60_000,
);

test.concurrent("calls that run on this machine, killed 12 times at any instant: nothing runs twice, each is told to Claude once", async () => {
  const tally = await runGarden({ kills: 12, seed: 3 });
  expect(tally).toMatchObject({ ranTwice: 0, mistold: 0, unposted: 0 });
  expect(tally.called).toBeGreaterThan(2);
}, 120_000);
