// Numbers and parts of the page as text and elements. Text of a run is always set as text, never as HTML.
export const percent = (share, digits = 0) => (share == null ? "–" : `${(100 * share).toFixed(digits)} %`);
export function quantity(number) {
  if (number == null) return "–";
  if (Math.abs(number) < 1e4) return Number.isInteger(number) ? `${number}` : Number(number.toPrecision(3)).toString();
  return Math.abs(number) < 1e6 ? `${(number / 1e3).toFixed(1)}k` : `${(number / 1e6).toFixed(2)}M`;
}
export function duration(seconds) {
  const whole = Math.round(seconds ?? 0),
    hours = Math.floor(whole / 3600),
    minutes = Math.floor(whole / 60) % 60;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${minutes} min ${whole % 60} s`;
  return hours < 48
    ? `${hours} h ${String(minutes).padStart(2, "0")} min`
    : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
export const short = (seconds) =>
  seconds < 1e-3
    ? `${(1e6 * seconds).toFixed(0)} µs`
    : seconds < 1
      ? `${(1e3 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`
      : `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
export function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "style") made.style.cssText = value;
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}
export const byId = (id) => document.getElementById(id);
export const plain = (value) =>
  value === null ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value);
// Fill a box anew only if what it shows has changed, so that a reader's place and focus stay.
const shown = new WeakMap();
export function fill(box, key, make) {
  const text = JSON.stringify(key);
  if (shown.get(box) === text) return;
  shown.set(box, text);
  box.replaceChildren(...make());
}
// Buttons of which one is pressed.
export function choice(id, attribute, chosen) {
  const buttons = [...byId(id).querySelectorAll("button")];
  for (const button of buttons)
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      chosen(button.dataset[attribute]);
    });
}
