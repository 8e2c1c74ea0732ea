// Pictures and runs under way, kept in the browser's IndexedDB, or in memory where that is denied.

/** Most pictures and bytes that are kept; the oldest go first. */
const MOST = { pictures: 200, bytes: 300_000_000 };

const memory = { pictures: new Map(), runs: new Map() };
let next = 1;
let opening = null;

const asPromise = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("calotype", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
      request.result.createObjectStore("runs", { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  }).catch(() => null);
  return opening;
}

/** Whether pictures outlast the page. */
export const lasting = async () => Boolean(await open());

async function run(name, mode, ask) {
  const base = await open();
  return asPromise(ask(base.transaction(name, mode).objectStore(name)));
}

/** All kept pictures, newest first. */
export async function pictures() {
  const all = (await open())
    ? await run("pictures", "readonly", (store) => store.getAll())
    : [...memory.pictures.values()];
  return all.sort((a, b) => b.at - a.at || b.id - a.id);
}

/** Keeps a picture, `{at, blob, request, seed, ...}`; gives it with its id. Throws where there is no room. */
export async function add(picture) {
  if (await open()) {
    const id = await run("pictures", "readwrite", (store) => store.put(picture));
    return { ...picture, id };
  }
  const kept = { ...picture, id: picture.id ?? next++ };
  memory.pictures.set(kept.id, kept);
  return kept;
}

export async function remove(id) {
  if (await open()) return run("pictures", "readwrite", (store) => store.delete(id));
  return memory.pictures.delete(id);
}

export async function removeAll() {
  if (await open()) return run("pictures", "readwrite", (store) => store.clear());
  return memory.pictures.clear();
}

/** Lets the oldest go where there are too many; gives what stays. */
export async function trim(list) {
  const staying = [];
  let bytes = 0;
  for (const picture of list) {
    const { image = "", mask = "" } = picture.request;
    bytes += picture.blob.size + image.length + mask.length;
    const fits = staying.length < MOST.pictures && (bytes <= MOST.bytes || !staying.length);
    if (fits) staying.push(picture);
    else await remove(picture.id);
  }
  return staying;
}

/** Remembers a run under way, `{id, began, body}`, for a page that is loaded again. */
export async function keepRun(run_) {
  if (await open()) await run("runs", "readwrite", (store) => store.put(run_));
  else memory.runs.set(run_.id, run_);
}

export async function runOf(id) {
  if (await open()) return run("runs", "readonly", (store) => store.get(id));
  return memory.runs.get(id);
}

export async function forgetRun(id) {
  if (await open()) await run("runs", "readwrite", (store) => store.delete(id));
  else memory.runs.delete(id);
}
