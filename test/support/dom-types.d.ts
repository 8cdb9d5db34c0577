/** What playwright-core's types name of the browser's; scripts for the browser are strings in our tests. */
type Node = object;
type HTMLElement = object;
type SVGElement = object;
type HTMLElementTagNameMap = object;
