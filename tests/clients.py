"""redis-py, unmodified, against a running server: `clients.py PORT PROTOCOL`. Ends with 0 when all went as with Redis."""

import signal
import sys
import threading

import redis

signal.alarm(100)  # a server that hangs fails the test

port, protocol = int(sys.argv[1]), int(sys.argv[2])
r = redis.Redis(port=port, protocol=protocol, decode_responses=True)
r.flushall()


def refused(call, message):
    """The call raises redis-py's error for a reply that contains the message."""
    try:
        call()
    except redis.ResponseError as error:
        assert message in str(error), error
    else:
        raise AssertionError(f"not refused: {message}")


# Strings.
assert r.ping()
assert r.set("a", "1") is True
assert r.get("a") == "1"
assert r.get("nothing") is None
assert r.set("a", "2", nx=True) is None
assert r.set("a", "2", xx=True, get=True) == "1"
assert r.append("a", "3") == 2
assert r.strlen("a") == 2
assert r.incr("a") == 24
assert r.decrby("a", 4) == 20
assert r.incrbyfloat("f", 1.25) == 1.25
assert r.mset({"x": 1, "y": 2}) is True
assert r.mget("x", "nothing", "y") == ["1", None, "2"]
assert r.msetnx({"x": 9, "z": 9}) is False
assert r.setnx("z", 3) is True
assert r.getdel("z") == "3"
assert r.getex("x", ex=100) == "1"
assert 0 < r.ttl("x") <= 100
raw = redis.Redis(port=port, protocol=protocol)
every_byte = bytes(range(256)) * 1000
assert raw.set(b"\x00\xff\r\n", every_byte) is True
assert raw.get(b"\x00\xff\r\n") == every_byte
assert raw.delete(b"\x00\xff\r\n") == 1

# Keys and expiry.
assert r.exists("x", "y", "nothing") == 2
assert r.type("x") == "string" and r.type("nothing") == "none"
assert r.expire("y", 50) is True
assert r.expire("y", 60, nx=True) is False
assert r.expire("y", 40, lt=True) is True
assert 39_000 < r.pttl("y") <= 40_000
assert r.persist("y") is True and r.ttl("y") == -1
assert r.pexpire("y", 1) is True
while r.exists("y"):  # invisible once its deadline has passed
    pass
assert r.get("y") is None
assert r.delete("x", "nothing") == 1
assert r.unlink("f") == 1
while r.dbsize() != 1:  # the expired one is swept unasked
    pass
r.mset({f"key:{n}": n for n in range(1000)})
assert sorted(r.scan_iter("key:*", count=70)) == sorted(f"key:{n}" for n in range(1000))
assert len(r.keys("key:99*")) == 11

# Errors are Redis's own.
r.set("text", "words")
refused(lambda: r.incr("text"), "value is not an integer or out of range")
refused(lambda: r.execute_command("GET"), "wrong number of arguments for 'get' command")
refused(lambda: r.execute_command("NOSUCH", "x"), "unknown command 'NOSUCH'")
refused(lambda: r.execute_command("SET", "a", "b", "EX", "0"), "invalid expire time in 'set' command")
refused(lambda: r.execute_command("SET", "a", "b", "WHAT"), "syntax error")
refused(lambda: r.execute_command("EXEC"), "EXEC without MULTI")

# Pipelines and transactions.
with r.pipeline(transaction=False) as pipe:
    for n in range(500):
        pipe.set("p", n).get("p")
    assert pipe.execute()[1::2] == [str(n) for n in range(500)]
with r.pipeline() as pipe:
    assert pipe.set("t", 1).incr("t").get("t").execute() == [True, 2, "2"]
with r.pipeline() as pipe:
    pipe.watch("t")
    r.set("t", "changed behind its back")
    pipe.multi()
    pipe.set("t", "not this")
    try:
        pipe.execute()
    except redis.WatchError:
        pass
    else:
        raise AssertionError("WATCH saw nothing")
assert r.get("t") == "changed behind its back"
with r.pipeline() as pipe:
    results = pipe.set("u", "words").incr("u").set("v", "after").execute(raise_on_error=False)
    assert results[0] is True and isinstance(results[1], redis.ResponseError) and results[2] is True
r.set("n", 0)


def count():
    mine = redis.Redis(port=port, protocol=protocol)
    for _ in range(50):
        mine.transaction(lambda pipe: (n := int(pipe.get("n")), pipe.multi(), pipe.set("n", n + 1)), "n")


threads = [threading.Thread(target=count) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert r.get("n") == "200"

# The connection and the server.
assert r.echo("hello") == "hello"
other = redis.Redis(port=port, protocol=protocol, db=7, client_name="tester", decode_responses=True)
assert other.dbsize() == 0 and other.set("a", "seven") and r.get("a") == "20"
assert other.client_getname() == "tester"
assert any(client["name"] == "tester" and client["db"] == "7" for client in r.client_list())
assert r.client_id() != other.client_id()
assert r.info("server")["redis_version"]
assert r.info("keyspace")["db7"]["keys"] == 1
assert r.command_count() > 50
assert r.command()["get"]["arity"] == 2
assert abs(r.time()[0] - __import__("time").time()) < 60
assert isinstance(r.config_get("maxmemory"), dict)
assert r.flushdb() is True and r.dbsize() == 0 and other.dbsize() == 1
