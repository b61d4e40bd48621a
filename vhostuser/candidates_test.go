package vhostuser_test

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// waiting waits until n candidates are there.
func (b *backend) waiting(n int64) {
	b.t.Helper()
	b.waitFor("candidates", func() bool { return b.stats.Candidates.Load() == n })
}

// ready waits until n candidates have sent a whole message.
func (b *backend) ready(n int) {
	b.t.Helper()
	b.waitFor("candidates with a message", func() bool { return b.server.Ready() == n })
}

// accepted waits until n connections have been accepted.
func (b *backend) accepted(n uint64) {
	b.t.Helper()
	b.waitFor("accepted", func() bool { return b.stats.Accepted.Load() == n })
}

// A connection becomes the session with its first whole message.
func TestSilentConnectionsAreNoSessions(t *testing.T) {
	b := newBackend(t)
	for range 5 {
		b.dial().Close()
	}
	b.waitFor("all gone", func() bool { return b.stats.CandidatesGone.Load() == 5 })
	silent := b.dial()
	b.waiting(1)
	half := b.dial()
	half.Write(golden.getFeatures[:11])
	b.waiting(2)
	b.expect()

	f := b.dial()
	f.GetFeatures() // is served although two came before it
	b.expect("attach")
	f.Close()
	b.waitEnd()
	b.expect("detach")

	half.Write(golden.getFeatures[11:])
	half.Read(len(golden.getFeaturesReply))
	b.expect("attach")
	half.Close()
	b.waitEnd()
	silent.GetFeatures()
}

// Whoever has sent a message waits for the end of the session, with what it sent,
// and they take turns in the order in which they came.
func TestCandidatesTakeTurns(t *testing.T) {
	b := newBackend(t)
	live := b.negotiated()
	var waiting []*vhostusertest.Frontend
	for i := range 8 {
		f := b.dial()
		// The first message has a descriptor and comes in pieces.
		m := vhostusertest.Message(vhostuser.MsgSetVringCall, 0, vhostusertest.U64(0))
		f.Write(m[:13], eventfd(t))
		f.Write(m[13:])
		b.ready(i + 1)
		waiting = append(waiting, f)
	}
	b.events()
	live.GetFeatures()
	for i, f := range waiting {
		live.Close()
		b.waitEnd()
		live = f
		f.Barrier()
		b.expect("detach", "attach")
		if n := b.stats.Candidates.Load(); n != int64(7-i) {
			t.Errorf("%d are waiting", n)
		}
		f.NeedReply = true
		f.SetProtocolFeatures(vhostuser.ProtocolReplyAck)
		before := openFds()
		f.SetVringCall(0, -1)
		if n := openFds(); n != before-1 {
			t.Error("the descriptor of the first message was not kept")
		}
	}
}

func TestSilentCandidatesMakeRoom(t *testing.T) {
	b := newBackend(t)
	live := b.negotiated()
	var silent, ready []*vhostusertest.Frontend
	for i := range 4 {
		silent = append(silent, b.dial())
		b.waiting(int64(2*i + 1))
		f := b.dial()
		f.Write(golden.getFeatures)
		b.ready(i + 1)
		ready = append(ready, f)
	}
	// Four come, and each takes the place of the oldest silent one.
	for i := range 4 {
		f := b.dial()
		f.Write(golden.getFeatures)
		silent[i].WaitClosed()
		b.ready(5 + i)
		ready = append(ready, f)
	}
	if n := b.stats.CandidatesEvicted.Load(); n != 4 {
		t.Errorf("%d were evicted", n)
	}
	// Now everybody has said something, so it is the newcomer who has to go.
	late := b.dial()
	late.WaitClosed()
	if n := b.stats.CandidatesRefused.Load(); n != 1 {
		t.Errorf("%d were refused", n)
	}
	live.GetFeatures()
	live.Close()
	for _, f := range ready {
		f.Read(len(golden.getFeaturesReply))
		f.Close()
	}
}

// What a candidate has sent counts, even if it was not received yet when somebody
// else came: all of this happens in one turn of the loop.
func TestFloodOfCandidatesWithMessages(t *testing.T) {
	b := newBackend(t)
	live := b.negotiated()
	var all []*vhostusertest.Frontend
	b.do(func() { // keeps the loop from looking meanwhile
		for range 9 {
			f := b.dial()
			f.Write(golden.getFeatures)
			all = append(all, f)
		}
	})
	all[8].WaitClosed()
	if n := b.stats.CandidatesEvicted.Load(); n != 0 {
		t.Errorf("%d were evicted", n)
	}
	live.Close()
	for _, f := range all[:8] {
		f.Read(len(golden.getFeaturesReply))
		f.Close()
	}
}

// A candidate need not wait for the answer to its first message before it sends
// more. Only the first is taken in before its turn.
func TestCandidatesSendOn(t *testing.T) {
	b := newBackend(t)
	live := b.negotiated()
	f := b.dial()
	f.Write(golden.getFeatures)
	b.ready(1)
	f.Write(golden.getFeatures)
	f.Write(golden.getFeatures[:7])
	live.Barrier()
	live.Barrier()
	live.Close()
	f.Read(len(golden.getFeaturesReply))
	f.Read(len(golden.getFeaturesReply))
	f.Write(golden.getFeatures[7:])
	f.Read(len(golden.getFeaturesReply))
}

// One that leaves while it waits is not made the session later.
func TestCandidatesLeave(t *testing.T) {
	b := newBackend(t)
	live := b.negotiated()
	b.events()
	leaves, stays := b.dial(), b.dial()
	leaves.Write(golden.getFeatures)
	stays.Write(golden.getFeatures)
	b.ready(2)
	leaves.Close()
	b.waiting(1)
	live.Close()
	b.waitEnd()
	stays.Read(len(golden.getFeaturesReply))
	b.expect("detach", "attach")
}

// Connecting a thousand times, silent or not, does the session no harm.
func TestConnectWhileConnected(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	before := openFds()
	var idle []*vhostusertest.Frontend
	for i := range 1000 {
		other := b.dial()
		switch i % 3 {
		case 0:
			other.Close()
		case 1:
			other.TryWrite(golden.getFeatures) // it may have been refused
			other.Close()
		default:
			idle = append(idle, other)
		}
		if i%100 == 0 {
			b.traffic(guest, "unharmed")
		}
	}
	b.accepted(1001)
	f.Barrier()
	b.traffic(guest, "unharmed")
	b.expect()
	for _, other := range idle {
		other.Close()
	}
	b.waiting(0)
	if n := openFds(); n != before {
		t.Errorf("%d descriptors before, %d after", before, n)
	}
}

// At the limit of open files accept fails while the connection keeps the socket
// ready. The server waits a little instead of spinning, and goes on by itself.
func TestAcceptAtTheFileLimit(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	waiting, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	other := vhostusertest.New(t, waiting)

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	defer restore()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: lowestFree(t), Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(waiting, &unix.SockaddrUnix{Name: b.path}); err != nil {
		t.Fatal(err)
	}
	b.waitFor("accept fails twice", func() bool { return b.stats.AcceptErrors.Load() >= 2 })
	if n := b.stats.AcceptErrors.Load(); n > 5 {
		t.Errorf("accept failed %d times", n)
	}
	b.traffic(guest, "meanwhile")
	restore()
	b.accepted(2)
	f.Close()
	b.waitEnd()
	other.GetFeatures()
}

// lowestFree returns the number the next descriptor would get.
func lowestFree(t *testing.T) uint64 {
	t.Helper()
	fd, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return uint64(fd)
}

func TestServeConnected(t *testing.T) {
	b := prepareBackend(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := vhostusertest.New(t, pair[0])
	if err := b.server.Serve(pair[1]); err != nil {
		t.Fatal(err)
	}
	other, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if b.server.Serve(other[1]) == nil {
		t.Error("two sessions at once")
	}
	vhostusertest.New(t, other[0]).WaitClosed()
	b.run()
	b.expect("attach")
	guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
	peer := vhostusertest.QEMU10(f, guest)
	peer.Init()
	peer.Start()
	b.traffic(guest, "on a passed descriptor")
	peer.Shutdown()
	if err := b.waitEnd(); err != nil {
		t.Error(err)
	}
}

func TestListenAndServeOwnTheirDescriptors(t *testing.T) {
	b := prepareBackend(t)
	b.run()
	file := func() int {
		fd, err := unix.Dup(memfd(t, 1))
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	fds := []int{file(), file()}
	b.do(func() {
		if b.server.Listen(fds[0]) == nil || b.server.Serve(fds[1]) == nil {
			t.Error("regular files were taken for sockets")
		}
	})
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			t.Error("a descriptor was not closed on error")
		}
	}
}

// Close ends the session in good order, turns candidates away, and is not told
// to OnSessionEnd.
func TestClose(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	candidate := b.dial()
	candidate.Write(golden.getFeatures)
	b.waiting(1)
	guest.Tx().Add(guest.Memory.Out([]byte("last words")))
	guest.Tx().Publish()
	b.do(func() {
		if err := b.server.Close(); err != nil {
			t.Error(err)
		}
	})
	f.WaitClosed()
	candidate.WaitClosed()
	b.expect("stop 0", "stop 1", "stop 2", "detach")
	if got := b.taken(); !slices.Equal(got, []string{"last words"}) {
		t.Errorf("taken %q", got)
	}
	if n := b.stats.SessionsEnded[vhostuser.EndShutdown].Load(); n != 1 {
		t.Errorf("%d sessions ended by Close", n)
	}
	if len(b.ended) != 0 {
		t.Error("OnSessionEnd was called")
	}
}
