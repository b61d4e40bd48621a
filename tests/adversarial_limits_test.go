package tests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// limit lowers a limit of the daemon's process until restore.
func (h *host) limit(resource int, to uint64) (restore func()) {
	h.t.Helper()
	var before unix.Rlimit
	if err := unix.Prlimit(h.pid, resource, nil, &before); err != nil {
		h.t.Fatal("prlimit:", err)
	}
	set := func(cur uint64) {
		h.t.Helper()
		if err := unix.Prlimit(h.pid, resource, &unix.Rlimit{Cur: cur, Max: before.Max}, nil); err != nil {
			h.t.Fatal("prlimit:", err)
		}
	}
	set(to)
	return func() { h.t.Helper(); set(before.Cur) }
}

// noMoreFiles lets the daemon open nothing any more until restore.
func (h *host) noMoreFiles() (restore func()) {
	h.t.Helper()
	h.metric("connections") // by a connection that will be used again
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.pid))
	if err != nil {
		h.t.Fatal(err)
	}
	var used []int
	for _, e := range entries {
		var fd int
		fmt.Sscan(e.Name(), &fd)
		used = append(used, fd)
	}
	free := 0
	for slices.Contains(used, free) {
		free++
	}
	return h.limit(unix.RLIMIT_NOFILE, uint64(free))
}

// A daemon without a descriptor left refuses and counts, and does not spin over
// those who wait. What it has goes on, and all is well when there are some again.
func TestAdversarialOutOfFiles(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.mustOutlast(h.noMoreFiles)
	h.mustServe(t)
}

// mustOutlast wants a daemon that can neither accept nor make sockets, from begin to
// restore, to refuse what is new and to go on with what there is.
func (h *host) mustOutlast(begin func() (restore func())) {
	h.t.Helper()
	b := h.boot(h.t)
	g, c := b.dial()
	port := newPort()
	l := b.guest.Listen(port)
	served, serves := b.listen()
	defer serves.Close()

	before := h.Scrape(h.t)
	restore := begin()
	client := h.client(h.t, fmt.Sprintf("CONNECT %d\n", port))
	frontend := h.frontend(h.t)
	frontend.Write(getFeatures)
	for _, metric := range []string{"accept_stalls_total", "frontend_accept_errors_total"} {
		vm.Eventually(h.t, patience, metric+" tells", func() bool { return h.metric(metric) > int(before.Sum("vhost_user_vsock_"+metric)) })
	}
	if _, err := b.guest.Dial(served); !errors.Is(err, muxertest.ErrReset) {
		h.t.Errorf("a REQUEST ended by %v", err)
	}
	if n := h.metric("resets_total", `reason="shortage"`) - int(before.Sum("vhost_user_vsock_resets_total", `reason="shortage"`)); n != 1 {
		h.t.Errorf("%d resets for shortage", n)
	}
	h.mustIdle()
	mustWrite(h.t, g, []byte("all the same"))
	mustReadJust(h.t, c, []byte("all the same"))
	restore()

	line := make([]byte, len("OK "))
	mustAccept(h.t, l)
	if _, err := client.Read(line); err != nil || string(line) != "OK " {
		h.t.Errorf("the program that had to wait reads %q, %v", line, err)
	}
	h.await(1, "frontend_candidates")
	b.mustWork(64 * kib)
	h.mustIdle()
	frontend.Close()
	b.powerOff()
	b.frontend.Close()
}

// At the limit, recvmsg loses descriptors and says so: the session cannot go on,
// the next one can.
func TestAdversarialLostDescriptors(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.boot(t)
	_, c := b.dial()
	restore := h.noMoreFiles()
	b.frontend.TryWrite(vhostusertest.Message(vhostuser.MsgSetVringCall, 0, u64(tx)), anEventfd(t))
	b.frontend.WaitClosed()
	mustEndAt(t, c)
	b.powerOff()
	h.mustIdle()
	restore()
	h.mustServe(t)
}

// A guest and host programs that take all they may have leave what a frontend
// needs: for its messages, and to come back.
func TestAdversarialReserveHolds(t *testing.T) {
	t.Parallel()
	h := newHostBy(t, `ulimit -n 300 && exec "$@"`)
	limit := h.metric("connections_limit")
	if limit >= 300 {
		t.Fatalf("%d connections with 300 descriptors", limit)
	}
	k := h.talk(muxertest.Options{})
	h.accepts(k.l)
	answers := k.storm(300, func(i uint32) csm.Header { return k.header(i, csm.OpRequest) })
	for answers[csm.OpResponse]+answers[csm.OpRST] < 300 {
		p, ok := k.driver.Recv(patience)
		if !ok {
			t.Fatalf("300 REQUESTs were answered by %v", answers)
		}
		answers[p.Op]++
	}
	if answers[csm.OpResponse] != limit {
		t.Errorf("%v, with a limit of %d connections", answers, limit)
	}
	for range 100 { // more than are heard out
		h.client(t, "CONN")
	}
	for range 8 { // as many as may wait, each with a descriptor
		f := h.frontend(t)
		f.Write(getFeatures[:6], anEventfd(t))
	}
	h.await(8, "frontend_candidates")

	files := make([]func(testing.TB) int, 8)
	regions := make([]byte, 8, 8+32*len(files))
	regions[0] = byte(len(files))
	for i := range files {
		files[i] = aPage
		r := elsewhere
		r.GuestAddr += uint64(i) * page
		r.UserAddr += uint64(i) * page
		regions = append(regions, table(r)[8:]...)
	}
	for _, m := range []message{
		msg(vhostuser.MsgSetVringCall, u64(tx), anEventfd), msg(vhostuser.MsgSetVringErr, u64(tx), anEventfd),
		msg(vhostuser.MsgSetVringKick, u64(event), anEventfd), msg(vhostuser.MsgSetMemTable, regions, files...),
		msg(vhostuser.MsgSetBackendReqFd, nil, fullSocket),
	} {
		if code := m.ack(k.board); code != 0 {
			t.Errorf("%v failed with %d", m.request, code)
		}
	}
	k.frontend.Close()
	h.mustServe(t) // another one, beside those that wait
	h.mustIdle()
}

// A guest's memory that cannot be mapped is refused, and can be mapped later.
func TestAdversarialOutOfMemory(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.mustServe(t)
	h.mustRefuseMemory(func() (restore func()) {
		return h.limit(unix.RLIMIT_AS, uint64(h.status("VmSize")+8*mib))
	})
	h.mustServe(t)
}

// mustRefuseMemory wants a daemon that cannot map a guest's memory, from begin to
// restore, to say so each time, and to map it when it can.
func (h *host) mustRefuseMemory(begin func() (restore func())) {
	h.t.Helper()
	b := h.plug(h.t, vhostusertest.QEMU72, vhostusertest.GuestOptions{})
	refused := h.metric("malformed_messages_total")
	restore := begin()
	m := message{request: vhostuser.MsgSetMemTable, payload: table(b.memory.Regions()...)}
	for range 10 {
		if b.frontend.Ack(m.request, m.payload, b.memory.Fds()...) == 0 {
			h.t.Fatal("64 MiB are mapped where there is no room for them")
		}
	}
	if n := h.metric("malformed_messages_total") - refused; n != 10 {
		h.t.Errorf("%d refusals are counted", n)
	}
	h.mustBeAlive()
	h.mustIdle()
	restore()
	b.start()
	b.mustWork(64 * kib)
	b.powerOff()
	b.frontend.Close()
}

// Nobody has to read what the daemon logs, and nothing has to take it.
func TestAdversarialStderr(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "unread")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(fifo, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	fill(t, fd)
	for name, script := range map[string]string{
		"closed": `exec "$@" 2>&-`,
		"full":   `exec "$@" 2>/dev/full`,
		"unread": fmt.Sprintf(`exec "$@" 2>'%s'`, fifo),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostBy(t, script, "--log-level", "debug")
			for range 20 {
				b := h.boot(t)
				msg(45, nil).ack(b) // a line
				b.mustWork(64 * kib)
				b.powerOff()
				b.peer.Shutdown()
			}
			if n := h.metric("log_lines_lost_total"); name == "full" && n == 0 {
				t.Error("no line is counted as lost")
			}
			h.mustIdle()
		})
	}
}
