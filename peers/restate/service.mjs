// The peer's service: durable steps that answer their input, as the plugin's `echo` does.
// Arguments: the folder of the installed packages, and the port on loopback.
import http2 from "node:http2";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";

// Node 20 lacks it, and the SDK uses it.
Promise.withResolvers ??= () => {
  let resolve, reject;
  const promise = new Promise((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
};

const [packages, port] = process.argv.slice(2);
const entry = createRequire(path.join(packages, "package.json")).resolve("@restatedev/restate-sdk");
const restate = await import(pathToFileURL(entry));

const bench = restate.service({
  name: "bench",
  handlers: {
    one: async (ctx, input) => ctx.run("a", () => input),
    three: async (ctx, input) => {
      const a = await ctx.run("a", () => input);
      const b = await ctx.run("b", () => a);
      return ctx.run("c", () => b);
    },
  },
});

http2
  .createServer(restate.createEndpointHandler({ services: [bench] }))
  .listen(Number(port), "127.0.0.1");
