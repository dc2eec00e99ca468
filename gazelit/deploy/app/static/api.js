// Talks to the server that this page came from, and to no other.

let token = "";

/** What the server says at the start; keeps the token that writing needs. */
export async function about() {
  const answer = await get("/api/about");
  token = answer.token;
  return answer;
}

export const get = (path) => ask(path, {});

export const post = (path, body) => ask(path, {method: "POST", body, headers: {"X-Gazelit-Token": token}});

export const remove = (path) => ask(path, {method: "DELETE", headers: {"X-Gazelit-Token": token}});

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("gazelit app does not answer; is it still running?");
  }
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text);
  let reason = text;
  try {
    reason = JSON.parse(text).error;
  } catch {
    // Not all of what refuses a request answers in JSON.
  }
  throw new Error(reason || `gazelit app answered ${answer.status}`);
}

/** The bytes that base64 stands for. */
export function bytesOf(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let index = 0; index < bytes.length; index++) bytes[index] = characters.charCodeAt(index);
  return bytes;
}
