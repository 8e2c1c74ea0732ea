// Small helpers around the document.

export const $ = (id) => document.getElementById(id);

/** Makes an element; `props` are set as properties, or as attributes where there is no such property. */
export function make(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** An icon of the sprite in the page. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function button(text, iconName, onclick, className = "button") {
  return make("button", { type: "button", className, onclick }, icon(iconName), text);
}

/** Says something to screen readers. */
export function announce(text) {
  $("live").textContent = text;
}

let toastTimer = 0;

/** A short note, with an action such as Undo where there is one. */
export function toast(text, action) {
  const node = $("toast");
  // An open dialog makes all outside it inert, the note too.
  (document.querySelector("dialog[open]") ?? document.body).append(node);
  $("toast-text").textContent = text;
  const act = $("toast-action");
  act.hidden = !action;
  act.textContent = action?.text ?? "";
  act.onclick = () => {
    hideToast();
    action.run();
  };
  node.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(hideToast, action ? 8000 : 5000);
}

function hideToast() {
  $("toast").hidden = true;
  document.body.append($("toast"));
}

/** Values kept in the browser; storage may be denied, then they last as long as the page. */
export const kept = {
  get(name) {
    try {
      return JSON.parse(localStorage.getItem(`calotype.${name}`));
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(`calotype.${name}`);
      else localStorage.setItem(`calotype.${name}`, JSON.stringify(value));
    } catch {
      // denied or full: nothing is lost but comfort
    }
  },
};

/** Bytes of a data URL; the page's policy does not let fetch read one. */
export function blobOf(dataUrl) {
  const comma = dataUrl.indexOf(",");
  const type = /^data:([^;,]*)/.exec(dataUrl)?.[1] || "image/png";
  const bytes = Uint8Array.from(atob(dataUrl.slice(comma + 1)), (c) => c.charCodeAt(0));
  return new Blob([bytes], { type });
}

/** 75 seconds are "1:15". */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
