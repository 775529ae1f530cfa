/* hiredis with its default settings: a smoke script, a pipeline, MULTI and WATCH. Arguments: the port. */
#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static redisReply *ask(redisContext *context, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    redisReply *reply = redisvCommand(context, format, arguments);
    va_end(arguments);
    if (reply == NULL) {
        fprintf(stderr, "%s: %s\n", format, context->errstr);
        exit(1);
    }
    return reply;
}

static void same(int passed, const char *what) {
    if (!passed) {
        fprintf(stderr, "failed: %s\n", what);
        exit(1);
    }
}

static void says(redisContext *context, const char *command, const char *expected) {
    redisReply *reply = ask(context, command);
    same(reply->str != NULL && strcmp(reply->str, expected) == 0, command);
    freeReplyObject(reply);
}

int main(int count, char **arguments) {
    int port = count > 1 ? atoi(arguments[1]) : 6379;
    redisContext *redis = redisConnect("127.0.0.1", port), *other = redisConnect("127.0.0.1", port);
    same(redis != NULL && !redis->err && other != NULL && !other->err, "connect");
    says(redis, "FLUSHALL", "OK");
    says(redis, "SET c:k v", "OK");
    says(redis, "GET c:k", "v");
    char binary[256];
    for (int n = 0; n < 256; n++) binary[n] = (char)n;
    freeReplyObject(ask(redis, "SET c:b %b", binary, sizeof binary));
    redisReply *reply = ask(redis, "GET c:b");
    same(reply->len == 256 && memcmp(reply->str, binary, 256) == 0, "binary");
    freeReplyObject(reply);
    reply = ask(redis, "INCR c:k");
    same(reply->type == REDIS_REPLY_ERROR && strstr(reply->str, "not an integer") != NULL, "error");
    freeReplyObject(reply);

    for (int n = 0; n < 100; n++) redisAppendCommand(redis, "INCR c:n");
    for (int n = 0; n < 100; n++) {
        same(redisGetReply(redis, (void **)&reply) == REDIS_OK && reply->integer == n + 1, "pipeline");
        freeReplyObject(reply);
    }

    says(redis, "MULTI", "OK");
    says(redis, "SET c:a 1", "QUEUED");
    says(redis, "INCR c:a", "QUEUED");
    reply = ask(redis, "EXEC");
    same(reply->elements == 2 && reply->element[1]->integer == 2, "exec");
    freeReplyObject(reply);

    says(redis, "WATCH c:a", "OK");
    says(other, "SET c:a 9", "OK");
    says(redis, "MULTI", "OK");
    says(redis, "SET c:a 0", "QUEUED");
    reply = ask(redis, "EXEC");
    same(reply->type == REDIS_REPLY_NIL, "watch");
    freeReplyObject(reply);
    says(redis, "GET c:a", "9");
    redisFree(redis);
    redisFree(other);
    puts("smoke passed");
    return 0;
}
