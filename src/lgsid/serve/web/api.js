// Requests to the service that the page came from, and to nothing else.
const SECONDS = 15;
let key = "";

export const setKey = (text) => {
  key = text;
};

export const hasKey = () => key !== "";

export class ApiError extends Error {
  // status: of HTTP, 0 where nothing answered; fix: what to do, in the service's words
  constructor(status, message, fix = null) {
    super(message);
    this.status = status;
    this.fix = fix;
  }
}

export async function call(path, { body, signal } = {}) {
  const headers = key ? { "X-API-Key": key } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const limit = AbortSignal.timeout(SECONDS * 1000);
  const given = {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: signal ? AbortSignal.any([signal, limit]) : limit,
  };
  let response;
  try {
    response = await fetch(path, given);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "unreachable");
  }
  const told = await response.json().catch(() => null);
  if (response.ok && told !== null) return told;
  throw new ApiError(response.status, told?.error?.message ?? `HTTP ${response.status}`, told?.error?.fix);
}

export const settings = () => call("page.json");
export const start = () => call("v1/page/start");
export const tokens = () => call("v1/page/tokens");
export const recommend = (body, signal) => call("v1/recommend", { body, signal });
export const explain = (id, signal) => call(`v1/explain/${encodeURIComponent(id)}`, { signal });

export function items(box = null, signal) {
  return call(`v1/page/items${box ? `?${new URLSearchParams(box)}` : ""}`, { signal });
}

export function similar(id, k, aligned, signal) {
  return call(`v1/items/${encodeURIComponent(id)}/similar?${new URLSearchParams({ k, aligned })}`, { signal });
}

export function search(q, place, k, signal) {
  const near = place ? { lat_deg: place.lat, lon_deg: place.lon } : {};
  return call(`v1/search?${new URLSearchParams({ q, k, ...near })}`, { signal });
}
