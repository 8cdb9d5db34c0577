/** The style sheet of the status page. Colours keep a contrast of 4.5 to 1 for text and 3 to 1 for what is drawn. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --line: #d9dde3; --text: #17202b; --soft: #55616f;
  --read: #0f6fb8; --write: #b4500a; --good: #1a7f37; --bad: #c0262d; --empty: #e6e9ee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10151b; --card: #1a212a; --line: #323c48; --text: #e7ecf2; --soft: #9fabb9;
    --read: #5ab0f2; --write: #f2985a; --good: #57c274; --bad: #ff8a80; --empty: #2a333e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 72rem; padding: 1rem clamp(.75rem, 3vw, 2rem) 2rem;
  background: var(--page); color: var(--text);
  font: 1rem/1.45 system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; }
h1 { margin: 0; font-size: 1.5rem; }
h2 { margin: 1.75rem 0 .6rem; font-size: 1.1rem; }
h3 { margin: 0 0 .4rem; font-size: 1rem; }
p { margin: .25rem 0; }
.about, .note, .detail, .legend, .scale, footer { color: var(--soft); font-size: .875rem; font-weight: 400; }
.about { margin: 0; }
.state { margin: 0 0 0 auto; padding: .2rem .75rem; border: 1px solid currentColor; border-radius: 1rem;
  font-size: .875rem; font-weight: 600; color: var(--good); }
.state[data-durable="false"] { color: var(--bad); }
.state .sign::before { content: "\\2713"; margin-right: .4rem; }
.state[data-durable="false"] .sign::before { content: "!"; }
.tiles, .charts { display: grid; gap: .75rem; margin: 0; grid-template-columns: repeat(6, minmax(0, 1fr)); }
.charts { margin-top: .75rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.charts[hidden] { display: none; }
.tiles > div, figure, article, .scroll, .facts { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.tiles > div { padding: .6rem .8rem; min-width: 0; }
dt { color: var(--soft); font-size: .875rem; }
dd { margin: 0; }
.value { font-size: 1.5rem; font-weight: 600; line-height: 1.3; white-space: nowrap; }
.dot { display: inline-block; width: .65rem; height: .65rem; margin-right: .4rem; border-radius: 50%; }
.dot.read { background: var(--read); }
.dot.write { background: var(--write); border-radius: 0; }
figure { margin: 0; padding: .6rem .8rem; min-width: 0; }
figcaption { color: var(--soft); font-size: .875rem; }
.chart { min-height: 12rem; min-width: 0; overflow: hidden; }
.uplot, .uplot *::before, .uplot *::after { line-height: 1.4; }
.u-legend { font-size: .8125rem; color: var(--soft); }
.u-inline.u-live th::after { content: ""; }
.u-legend .u-series:first-child { display: none; }
.u-legend th, .u-legend td { border: 0; padding: 0 .2rem; text-align: left; font-weight: 400; font-size: .8125rem; color: inherit; }
.u-legend .u-marker { width: 1.25rem; height: 0; border-width: 2px 0 0 !important; }
.u-legend .u-value { min-width: 3.5rem; color: var(--text); }
article { padding: .8rem; margin-bottom: .75rem; }
.strip { display: block; width: 100%; height: 2.25rem; background: var(--empty); border-radius: .25rem; shape-rendering: crispEdges; }
.strip rect, .key rect { fill: var(--read); }
.scale { display: flex; justify-content: space-between; margin: .15rem 0 .4rem; font-size: .75rem; }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem; }
.legend span { white-space: nowrap; }
.key { width: 1rem; height: 1rem; margin-right: .3rem; vertical-align: -.15rem; background: var(--empty); border: 1px solid var(--soft); border-radius: .2rem; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, a:focus-visible { outline: 2px solid var(--read); outline-offset: 2px; }
table { width: 100%; border-collapse: collapse; overflow-wrap: normal; }
th, td { padding: .4rem .8rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-size: .875rem; font-weight: 400; }
th:first-child { text-align: left; }
tbody th { font-weight: 600; font-size: .9375rem; }
.facts { margin: 0; padding: .2rem .8rem; }
.facts > div { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: .4rem 0; border-top: 1px solid var(--line); }
.facts > div:first-child { border-top: 0; }
.facts dt { flex: 0 0 9rem; }
.facts dd { flex: 1 1 15rem; }
a { color: var(--read); }
footer { margin-top: 1.5rem; }
.foot { display: flex; flex-wrap: wrap; gap: 0 1rem; }
.stale { color: var(--bad); font-weight: 600; }
@media (max-width: 62rem) { .tiles { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (max-width: 40rem) {
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .state { margin-left: 0; }
  .value { font-size: 1.25rem; }
  .extra { display: none; }
  th, td, thead th, tbody th { padding: .4rem .4rem; font-size: .8125rem; }
}
`;
