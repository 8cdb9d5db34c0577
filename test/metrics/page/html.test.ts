import { expect, test } from 'vitest';
import { renderPage } from '../../../src/metrics/page/html.ts';
import { pageTexts } from '../../../src/metrics/page/view.ts';
import { EXPORT, fakeStatus } from '../fake-status.ts';

const EVIL = `"><script>alert('1')</script>&`;

test('the page has a place for every text, filled', () => {
  const status = fakeStatus({ exports: [EXPORT, { ...EXPORT, name: 'other' }] });
  const page = renderPage(status, undefined);
  for (const [name, text] of pageTexts(status, undefined)) {
    expect(page).toContain(`<span data-text="${name}">${text}</span>`);
  }
  const places = [...page.matchAll(/data-text="([^"]*)"/g)].map(([, name]) => name);
  expect(new Set(places)).toEqual(new Set(pageTexts(status, undefined).keys()));
});

test('what clients and operators call their exports cannot become markup', () => {
  const page = renderPage(
    fakeStatus({ version: EVIL, exports: [{ ...EXPORT, name: EVIL, description: EVIL }] }),
    undefined,
  );
  expect(page).not.toContain('<script>alert');
  expect(page).not.toContain(`alert('1')`);
  expect(page.split('&quot;&gt;&lt;script&gt;')).toHaveLength(5);
});

test('the page asks nothing of other sites, and has no scripts or styles of its own that the policy forbids', () => {
  const page = renderPage(fakeStatus(), undefined);
  expect(page).not.toMatch(/(?:src|href)="(?!\/)/);
  expect(page).not.toMatch(/(?:src|href)="\/\//);
  expect(page).not.toMatch(/<script(?![^>]*\bsrc=)/);
  expect(page).not.toMatch(/<style|\sstyle=|\son[a-z]+=/);
});

test('a strip has a cell for each, also without any export or without an answer', () => {
  const page = renderPage(fakeStatus(), undefined);
  expect(
    [...page.matchAll(/<rect x="\d+" width="1" height="1" fill-opacity="([\d.]+)"/g)].map(([, o]) => o),
  ).toEqual(['1.00', '0', '0.60', '1.00']);
  expect(renderPage(fakeStatus({ exports: [] }), undefined)).toContain('None is open.');
  const unknown = fakeStatus({ exports: [{ ...EXPORT, residency: null }], hiddenExportCount: 3 });
  expect(renderPage(unknown, undefined)).not.toContain('class="strip"');
  expect(renderPage(unknown, undefined)).toContain('3 more are not shown');
});
