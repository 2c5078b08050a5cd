(function () {
  "use strict";
  var root = document.documentElement;
  var key = "semi-nmf-concepts-theme";
  root.classList.add("js");

  // Files opened from disk may not have storage: the choice then lasts as long as the page.
  function remember(theme) { try { localStorage.setItem(key, theme); } catch (error) { /* no storage */ } }
  function remembered() { try { return localStorage.getItem(key); } catch (error) { return null; } }

  // Before the body is drawn, so that the page does not flash in the other theme.
  var chosen = remembered();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function themeButton() {
    var button = document.getElementById("theme");
    function show() { button.setAttribute("aria-pressed", String(isDark())); }
    button.addEventListener("click", function () {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      show();
    });
    show();
  }

  function conceptTools() {
    var list = document.getElementById("cards");
    if (!list) return;  // an evaluation has no such list
    var cards = Array.prototype.slice.call(list.children);
    var search = document.getElementById("search");
    var sort = document.getElementById("sort");
    var found = document.getElementById("found");
    var nothing = document.getElementById("nothing");

    // Every word typed must occur somewhere in the card's text.
    function filter() {
      var needles = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      var count = 0;
      cards.forEach(function (card) {
        var match = needles.every(function (needle) { return card.dataset.text.indexOf(needle) >= 0; });
        card.hidden = !match;
        if (match) count += 1;
      });
      found.textContent = count + " of " + cards.length + " shown";
      nothing.hidden = count > 0 || cards.length === 0;
    }

    // Numbers from large to small, the index from small to large; ties keep the index order.
    function order() {
      var by = sort.value;
      var sign = by === "index" ? 1 : -1;
      cards.slice().sort(function (a, b) {
        return sign * (a.dataset[by] - b.dataset[by]) || a.dataset.index - b.dataset.index;
      }).forEach(function (card) { list.appendChild(card); });
    }

    function clear() { search.value = ""; filter(); }

    // A link to a concept works also while the search hides its card.
    function reveal() {
      var card = document.getElementById(location.hash.slice(1));
      if (card && card.hidden) { clear(); card.scrollIntoView(); }
    }

    search.form.addEventListener("submit", function (event) { event.preventDefault(); });
    search.addEventListener("input", filter);
    sort.addEventListener("change", order);
    document.getElementById("clear").addEventListener("click", function () { clear(); search.focus(); });
    window.addEventListener("hashchange", reveal);
    filter();  // browsers restore the fields on reload
    order();
  }

  // The thumbnails are plain links to the explanations below; here they become tabs.
  function sampleTabs() {
    var strip = document.getElementById("thumbs");
    if (!strip) return;
    var tabs = Array.prototype.slice.call(strip.children);
    strip.setAttribute("role", "tablist");

    function panelOf(tab) { return document.getElementById(tab.hash.slice(1)); }

    function open(tab, focus) {
      tabs.forEach(function (other) {
        var on = other === tab;
        other.setAttribute("aria-selected", String(on));
        other.tabIndex = on ? 0 : -1;
        panelOf(other).classList.toggle("open", on);
      });
      if (focus) tab.focus();
    }

    tabs.forEach(function (tab, i) {
      var panel = panelOf(tab);
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("role", "tabpanel");
      panel.tabIndex = 0;
      tab.addEventListener("click", function (event) { event.preventDefault(); open(tab, true); });
      tab.addEventListener("keydown", function (event) {
        var steps = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: tabs.length - 1 };
        if (event.key === " ") { event.preventDefault(); open(tab, true); }
        if (!(event.key in steps)) return;
        event.preventDefault();
        open(tabs[(steps[event.key] + tabs.length) % tabs.length], true);
      });
    });

    function fromAddress() {
      return tabs.filter(function (tab) { return tab.hash === location.hash; })[0];
    }
    open(fromAddress() || tabs[0], false);
    window.addEventListener("hashchange", function () { if (fromAddress()) open(fromAddress(), false); });
  }

  document.addEventListener("DOMContentLoaded", function () {
    themeButton();
    conceptTools();
    sampleTabs();
  });
})();
