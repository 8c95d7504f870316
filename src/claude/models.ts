/** The models that the key may use. **Source:** claude/CLAUDE-API.md section 4.1. */
import type { ClaudeApi } from "./api.ts";
import type { ModelInfo } from "./backend.ts";

/** Far more than there are: an endpoint that pages for ever must not hold us. */
const modelsMax = 500;

/** @throws BridgeError `claude_*` */
export const listModels = (api: ClaudeApi, signal: AbortSignal): Promise<readonly ModelInfo[]> =>
  api.call({ what: "list the models" }, async (client) => {
    const models: ModelInfo[] = [];
    for await (const { id, display_name } of client.models.list({ limit: 100 }, { signal })) {
      models.push({ id, name: display_name || id });
      if (models.length >= modelsMax) break;
    }
    return models;
  });
