// Drives a YAML language server over standard input and output, as an editor does, with schema/certplan.schema.json: what
// it completes, explains and complains about while somebody writes certplan.yaml.
//
// Usage: node check.mjs PATH-OF-THE-SERVER. tests/run installs the version of package.json and runs this.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const SERVER = process.argv[2];
const SCHEMA = fileURLToPath(new URL('../../schema/certplan.schema.json', import.meta.url));
const TIMEOUT = 60_000;

if (!SERVER) {
  console.error('usage: node check.mjs PATH-OF-THE-SERVER');
  process.exit(64);
}

/** A language server that runs as a child. */
class Server {
  #child = spawn(process.execPath, [SERVER, '--stdio'], { stdio: ['pipe', 'pipe', 'inherit'] });
  #settings = {
    yaml: {
      schemas: { [`file://${SCHEMA}`]: '*.yaml' },
      schemaStore: { enable: false },
      completion: true,
      hover: true,
      validate: true,
    },
  };
  #received = Buffer.alloc(0);
  #answers = new Map();
  #diagnostics = new Map();
  #documents = 0;
  #requests = 0;

  constructor() {
    this.#child.stdout.on('data', (data) => this.#read(data));
  }

  async start() {
    const item = { completionItem: { snippetSupport: true } };
    await this.#request('initialize', {
      processId: process.pid,
      rootUri: null,
      capabilities: { textDocument: { completion: item, hover: {}, publishDiagnostics: {} } },
    });
    this.#notify('initialized', {});
    this.#notify('workspace/didChangeConfiguration', { settings: this.#settings });
    // It has read the schema when it complains of what only the schema forbids.
    const { textDocument } = this.#open('nonsense: 1|');
    await new Promise((resolve) => {
      this.#diagnostics.set(textDocument.uri, (complaints) => complaints.length > 0 && resolve());
    });
  }

  stop() {
    this.#child.kill();
  }

  /** The labels that are offered where `|` stands in the text. */
  async completed(text) {
    const at = this.#open(text);
    const { result } = await this.#request('textDocument/completion', at);
    return (result.items ?? result).map((item) => item.label);
  }

  /** What is said about the word where `|` stands in the text. */
  async explained(text) {
    const at = this.#open(text);
    const { result } = await this.#request('textDocument/hover', at);
    // Everything but words is escaped for Markdown.
    return (result?.contents.value ?? '').replaceAll('\\', '');
  }

  /** The complaints about a text: `LINE:COLUMN MESSAGE`, from 1. */
  async complaints(text) {
    const { textDocument } = this.#open(`${text}|`);
    const complaints = await new Promise((resolve) => this.#diagnostics.set(textDocument.uri, resolve));
    return complaints.map(({ range, message }) => `${range.start.line + 1}:${range.start.character + 1} ${message}`);
  }

  #open(text) {
    const before = text.slice(0, text.indexOf('|'));
    const lines = before.split('\n');
    this.#documents += 1;
    const uri = `file:///project/${this.#documents}.yaml`;
    const textDocument = { uri, languageId: 'yaml', version: 1, text: text.replace('|', '') };
    this.#notify('textDocument/didOpen', { textDocument });
    return { textDocument: { uri }, position: { line: lines.length - 1, character: lines.at(-1).length } };
  }

  #request(method, params) {
    this.#requests += 1;
    const id = this.#requests;
    this.#send({ id, method, params });
    return new Promise((resolve) => this.#answers.set(id, resolve));
  }

  #notify(method, params) {
    this.#send({ method, params });
  }

  #send(message) {
    const text = JSON.stringify({ jsonrpc: '2.0', ...message });
    this.#child.stdin.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
  }

  #read(data) {
    this.#received = Buffer.concat([this.#received, data]);
    for (;;) {
      const end = this.#received.indexOf('\r\n\r\n');
      if (end < 0) return;
      const length = Number(/content-length: (\d+)/i.exec(this.#received.subarray(0, end))[1]);
      const next = end + 4 + length;
      if (this.#received.length < next) return;
      const message = JSON.parse(this.#received.subarray(end + 4, next));
      this.#received = this.#received.subarray(next);
      this.#take(message);
    }
  }

  #take({ id, method, params, result, error }) {
    if (method && id !== undefined) {
      const asked = params?.items?.map(({ section }) => this.#settings[section] ?? null);
      this.#send({ id, result: method === 'workspace/configuration' ? asked : null });
    } else if (method === 'textDocument/publishDiagnostics') {
      this.#diagnostics.get(params.uri)?.(params.diagnostics);
    } else if (id !== undefined) {
      assert.equal(error, undefined);
      this.#answers.get(id)({ result });
    }
  }
}

const CERTIFICATE = ['deploy', 'issuer', 'key', 'labels', 'names', 'preferred_chain', 'profile', 'renew', 'verify'];

const CHECKS = {
  async 'the keys of the first level are completed'(server) {
    const offered = await server.completed('version: 1\ncert|');
    for (const key of ['certificates', 'defaults', 'dns', 'encryption', 'issuers', 'state', 'targets']) {
      assert.ok(offered.includes(key), `${key}: ${offered}`);
    }
  },
  async 'the keys of a certificate are completed'(server) {
    const offered = await server.completed('version: 1\ncertificates:\n  shop:\n    n|');
    for (const key of CERTIFICATE) assert.ok(offered.includes(key), `${key}: ${offered}`);
  },
  async 'what is there already is not offered again'(server) {
    const text = 'version: 1\ncertificates:\n  shop:\n    names: [shop.example.com]\n    |';
    const offered = await server.completed(text);
    assert.ok(offered.includes('issuer') && !offered.includes('names'), `${offered}`);
  },
  async 'the kinds of DNS providers are completed'(server) {
    const offered = await server.completed('version: 1\ndns:\n  local:\n    r|');
    for (const key of ['powerdns', 'rfc2136', 'zones', 'propagation']) assert.ok(offered.includes(key), `${offered}`);
  },
  async 'well-known directories are completed'(server) {
    const text = 'version: 1\nissuers:\n  ca:\n    acme:\n      directory: |';
    const offered = await server.completed(text);
    assert.ok(offered.some((label) => label.includes('letsencrypt-staging')), `${offered}`);
  },
  async 'a key is explained'(server) {
    const said = await server.explained('version: 1\ncertificates:\n  shop:\n    na|mes: [shop.example.com]\n');
    assert.ok(said.includes('The DNS names. Their order means nothing.'), said);
    assert.ok(said.includes('shop.example.com'), `an example: ${said}`);
  },
  async 'an unknown key is complained of at its place'(server) {
    const text = 'version: 1\ncertificates:\n  shop:\n    names: [shop.example.com]\n    isuer: ca\n';
    assert.deepEqual(await server.complaints(text), ['5:5 Property isuer is not allowed.']);
  },
  async 'a wrong value is complained of at its place'(server) {
    const text = 'version: 2\ncertificates:\n  shop: { names: shop.example.com }\n';
    const complaints = await server.complaints(text);
    assert.ok(complaints.some((complaint) => complaint.startsWith('1:10 ')), `${complaints}`);
    assert.ok(complaints.some((complaint) => complaint.startsWith('3:18 ')), `${complaints}`);
  },
  async 'what is valid is not complained of'(server) {
    const text = 'version: 1\nissuers: { letsencrypt: { acme: { agree_tos: true } } }\n'
      + 'certificates:\n  shop: { names: [shop.example.com], issuer: letsencrypt }\n';
    assert.deepEqual(await server.complaints(text), []);
  },
};

const late = setTimeout(() => {
  console.error(`the language server did not answer within ${TIMEOUT / 1000} s`);
  process.exit(1);
}, TIMEOUT);
const server = new Server();
await server.start();
let failed = 0;
for (const [name, check] of Object.entries(CHECKS)) {
  try {
    await check(server);
    console.log(`ok: ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED: ${name}: ${error.message}`);
  }
}
server.stop();
clearTimeout(late);
console.log(`editor: ${Object.keys(CHECKS).length - failed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
