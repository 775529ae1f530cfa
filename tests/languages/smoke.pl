# Redis.pm with its default settings: a smoke script, a pipeline, MULTI and WATCH. Arguments: the port.
use strict;
use warnings;
use Redis;

sub same {
    my ($found, $expected, $what) = @_;
    die "$what: found " . ($found // 'nothing') . ", expected $expected\n" unless defined $found && $found eq $expected;
}

my $server = "127.0.0.1:$ARGV[0]";
my ($redis, $other) = (Redis->new(server => $server), Redis->new(server => $server));
$redis->flushall;
same($redis->set('pl:k', 'v'), 'OK', 'set');
same($redis->get('pl:k'), 'v', 'get');
my $binary = join '', map { chr } 0 .. 255;
$redis->set('pl:b', $binary);
same($redis->get('pl:b'), $binary, 'binary');
die "a key that is not there\n" if defined $redis->get('pl:none');
eval { $redis->incr('pl:k') };
die "no error: $@\n" unless $@ =~ /not an integer or out of range/;

my @replies;
$redis->incr('pl:n', sub { push @replies, $_[0] }) for 1 .. 100;
$redis->wait_all_responses;
same("@replies", join(' ', 1 .. 100), 'pipeline');

$redis->multi;
$redis->set('pl:a', 1);
$redis->incr('pl:a');
same(join(' ', $redis->exec), 'OK 2', 'exec');

$redis->watch('pl:a');
$other->set('pl:a', 9);
$redis->multi;
$redis->set('pl:a', 0);
my @lost = $redis->exec;
die "a transaction whose key had changed: @lost\n" if grep { defined } @lost;
same($redis->get('pl:a'), 9, 'watch');
print "smoke passed\n";
