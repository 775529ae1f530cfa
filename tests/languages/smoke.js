// ioredis with its default settings: a smoke script, a pipeline, MULTI and WATCH. Arguments: the port.
const Redis = require("ioredis");
const assert = require("assert");

async function main() {
  const port = Number(process.argv[2]);
  const redis = new Redis(port);
  const other = new Redis(port);
  await redis.flushall();
  assert.equal(await redis.set("js:k", "v"), "OK");
  assert.equal(await redis.get("js:k"), "v");
  const binary = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  await redis.set("js:b", binary);
  assert.deepEqual(await redis.getBuffer("js:b"), binary);
  assert.equal(await redis.get("js:none"), null);
  await assert.rejects(redis.incr("js:k"), /not an integer or out of range/);
  assert.deepEqual(await redis.mget("js:k", "js:none"), ["v", null]);

  const pipeline = redis.pipeline();
  for (let n = 0; n < 100; n++) pipeline.incr("js:n");
  const replies = await pipeline.exec();
  assert.deepEqual(replies.map(([error, reply]) => [error, reply]), Array.from({ length: 100 }, (_, n) => [null, n + 1]));

  assert.deepEqual(await redis.multi().set("js:a", "1").incr("js:a").get("js:a").exec(), [[null, "OK"], [null, 2], [null, "2"]]);

  await redis.watch("js:a");
  await other.set("js:a", "9");
  assert.equal(await redis.multi().set("js:a", "0").exec(), null);
  assert.equal(await redis.get("js:a"), "9");
  await redis.watch("js:a");
  assert.deepEqual(await redis.multi().incr("js:a").exec(), [[null, 10]]);
  redis.disconnect();
  other.disconnect();
  console.log("smoke passed");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
