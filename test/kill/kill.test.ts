import { expect, test } from "bun:test";
import { isKept, runCampaign } from "./campaign.ts";

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
