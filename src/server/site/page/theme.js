// Runs before the first paint, so that a chosen theme does not flash the other.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const NAME = "calotype.theme";

  const chosen = () => {
    try {
      return localStorage.getItem(NAME);
    } catch {
      return null; // storage is denied: the system's theme it is
    }
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  const theme = chosen();
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => {
      button.setAttribute("aria-pressed", String(isDark()));
      root.classList.toggle("dark", isDark());
    };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        localStorage.setItem(NAME, root.dataset.theme);
      } catch {
        // kept for this visit only
      }
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();
