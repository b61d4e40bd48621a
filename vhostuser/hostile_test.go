package vhostuser_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// bad is one message that has to be refused.
type bad struct {
	name    string
	request vhostuser.Request
	payload []byte
	fds     []int
}

// refused are messages that change nothing and are acknowledged with a failure,
// or end the session where they cannot be.
func refused(t *testing.T) []bad {
	const page = 4096
	memfd := func(size int64) int { return memfd(t, size) }
	region := func(r guestmem.Region) []byte { return vhostuser.MemRegions{r}.AppendTo(nil) }
	one := guestmem.Region{GuestAddr: 0x10000000, Size: page, UserAddr: 0x7f0000000000}
	two := func(second guestmem.Region) []byte { return vhostuser.MemRegions{one, second}.AppendTo(nil) }
	single := func(r guestmem.Region) []byte { return vhostuser.SingleMemRegion(r).AppendTo(nil) }
	u32 := func(v ...uint32) (p []byte) {
		for _, x := range v {
			p = binary.NativeEndian.AppendUint32(p, x)
		}
		return p
	}
	pipe := pipe(t)

	cases := []bad{
		{"truncated-payload", vhostuser.MsgSetVringAddr, make([]byte, 39), nil},
		{"oversized-payload", vhostuser.MsgSetVringNum, append(vhostusertest.State(0, 256), make([]byte, 8)...), nil},
		{"payload-on-empty", vhostuser.MsgSetOwner, make([]byte, 8), nil},
		{"unknown-0", 0, nil, nil},
		{"unknown-45", 45, make([]byte, 100), nil},
		{"unknown-max", math.MaxUint32, make([]byte, 4096), nil},
		{"unknown-with-fds", 99, make([]byte, 3), []int{memfd(page), memfd(page), memfd(page)}},
		{"fd-on-plain", vhostuser.MsgSetOwner, nil, []int{memfd(page)}},

		{"memtable-fd-short", vhostuser.MsgSetMemTable, two(guestmem.Region{GuestAddr: 0x20000000, Size: page, UserAddr: 0x7f1000000000}), []int{memfd(page)}},
		{"memtable-fd-long", vhostuser.MsgSetMemTable, region(one), []int{memfd(page), memfd(page)}},
		{"memtable-num-huge", vhostuser.MsgSetMemTable, u32(math.MaxUint32, 0), nil},
		{"memtable-num-33", vhostuser.MsgSetMemTable, append(u32(33, 0), make([]byte, 33*32)...), nil},
		{"memtable-num-beyond-payload", vhostuser.MsgSetMemTable, append(u32(2, 0), region(one)[8:]...), []int{memfd(page), memfd(page)}},
		{"memtable-empty-payload", vhostuser.MsgSetMemTable, nil, nil},
		{"region-zero-size", vhostuser.MsgSetMemTable, region(guestmem.Region{GuestAddr: page, UserAddr: page}), []int{memfd(page)}},
		{"region-gpa-overflow", vhostuser.MsgSetMemTable, region(guestmem.Region{GuestAddr: -page & math.MaxUint64, Size: 2 * page, UserAddr: page}), []int{memfd(2 * page)}},
		{"region-uaddr-overflow", vhostuser.MsgSetMemTable, region(guestmem.Region{GuestAddr: page, Size: 2 * page, UserAddr: -page & math.MaxUint64}), []int{memfd(2 * page)}},
		{"region-off-overflow", vhostuser.MsgSetMemTable, region(guestmem.Region{GuestAddr: page, Size: 2 * page, UserAddr: page, Offset: -page & math.MaxUint64}), []int{memfd(2 * page)}},
		{"region-overlap-gpa", vhostuser.MsgSetMemTable, two(guestmem.Region{GuestAddr: one.GuestAddr, Size: page, UserAddr: 0x7f1000000000}), []int{memfd(page), memfd(page)}},
		{"region-overlap-uaddr", vhostuser.MsgSetMemTable, two(guestmem.Region{GuestAddr: 0x20000000, Size: page, UserAddr: one.UserAddr}), []int{memfd(page), memfd(page)}},
		{"region-fd-short", vhostuser.MsgSetMemTable, region(guestmem.Region{GuestAddr: page, Size: 1 << 30, UserAddr: page}), []int{memfd(page)}},
		{"region-fd-pipe", vhostuser.MsgSetMemTable, region(one), []int{pipe[0]}},
		{"region-fd-eventfd", vhostuser.MsgSetMemTable, region(one), []int{eventfd(t)}},
		{"region-fd-directory", vhostuser.MsgSetMemTable, region(one), []int{directory(t)}},
		{"region-fd-read-only", vhostuser.MsgSetMemTable, region(one), []int{readOnly(t)}},
		{"add-without-fd", vhostuser.MsgAddMemReg, single(one), nil},
		{"add-with-two-fds", vhostuser.MsgAddMemReg, single(one), []int{memfd(page), memfd(page)}},
		{"add-zero-size", vhostuser.MsgAddMemReg, single(guestmem.Region{GuestAddr: page, UserAddr: page}), []int{memfd(page)}},
		{"rem-unknown-region", vhostuser.MsgRemMemReg, single(one), nil},
		{"rem-with-two-fds", vhostuser.MsgRemMemReg, single(one), []int{memfd(page), memfd(page)}},

		{"addr-flags", vhostuser.MsgSetVringAddr, vhostuser.VringAddr{Flags: math.MaxUint32}.AppendTo(nil), nil},
		{"addr-unmapped", vhostuser.MsgSetVringAddr, vhostuser.VringAddr{Desc: 0x1000, Avail: 0x2000, Used: 0x3000}.AppendTo(nil), nil},
		{"base-65536", vhostuser.MsgSetVringBase, vhostusertest.State(0, 65536), nil},
		{"enable-2", vhostuser.MsgSetVringEnable, vhostusertest.State(0, 2), nil},

		{"kick-no-bit-no-fd", vhostuser.MsgSetVringKick, vhostusertest.U64(0), nil},
		{"call-no-bit-no-fd", vhostuser.MsgSetVringCall, vhostusertest.U64(1), nil},
		{"err-no-bit-no-fd", vhostuser.MsgSetVringErr, vhostusertest.U64(2), nil},
		{"kick-high-bits", vhostuser.MsgSetVringKick, vhostusertest.U64(1 << 9), []int{eventfd(t)}},
		{"call-high-bits", vhostuser.MsgSetVringCall, vhostusertest.U64(1 << 63), []int{eventfd(t)}},
		{"kick-two-fds", vhostuser.MsgSetVringKick, vhostusertest.U64(0), []int{eventfd(t), eventfd(t)}},
		{"kick-regular-file", vhostuser.MsgSetVringKick, vhostusertest.U64(0), []int{memfd(page)}},
		{"call-directory", vhostuser.MsgSetVringCall, vhostusertest.U64(0), []int{directory(t)}},

		{"features-no-version1", vhostuser.MsgSetFeatures, vhostusertest.U64(vhostuser.FeatureProtocolFeatures), nil},
		{"features-none", vhostuser.MsgSetFeatures, vhostusertest.U64(0), nil},
		{"proto-unoffered", vhostuser.MsgSetProtocolFeatures, vhostusertest.U64(1<<3 | 1<<17), nil},
		{"proto-inband", vhostuser.MsgSetProtocolFeatures, vhostusertest.U64(1<<3 | 1<<14), nil},
		{"proto-all-ones", vhostuser.MsgSetProtocolFeatures, vhostusertest.U64(math.MaxUint64), nil},

		{"backend-req-without-fd", vhostuser.MsgSetBackendReqFd, nil, nil},
		{"backend-req-with-two-fds", vhostuser.MsgSetBackendReqFd, nil, []int{eventfd(t), eventfd(t)}},
		{"set-config-payload-missing", vhostuser.MsgSetConfig, u32(0, 8, 0), nil},
		{"set-config-no-head", vhostuser.MsgSetConfig, u32(0, 8), nil},

		{"log-fd-without-fd", vhostuser.MsgSetLogFd, nil, nil},
		{"log-fd-with-two-fds", vhostuser.MsgSetLogFd, nil, []int{eventfd(t), eventfd(t)}},

		// Not offered, so unknown.
		{"send-rarp", 19, make([]byte, 8), nil},
		{"net-set-mtu", 20, make([]byte, 8), nil},
		{"iotlb", 22, make([]byte, 32), nil},
		{"vring-endian", 23, make([]byte, 8), nil},
		{"postcopy-advise", 28, nil, nil},
		{"postcopy-listen", 29, nil, nil},
		{"postcopy-end", 30, nil, nil},
		{"get-inflight", 31, make([]byte, 24), nil},
		{"set-inflight", 32, make([]byte, 24), []int{memfd(page)}},
		{"gpu-socket", 33, nil, []int{eventfd(t)}},
		{"vring-kick", 35, make([]byte, 8), nil},
		{"set-status", 39, make([]byte, 8), nil},
		{"get-status", 40, nil, nil},
		{"shared-object", 41, make([]byte, 16), nil},
		{"get-shmem-config", 44, nil, nil},
	}
	for _, num := range []uint32{0, 3, 32769, 65536, math.MaxUint32} {
		cases = append(cases, bad{fmt.Sprint("num-", num), vhostuser.MsgSetVringNum, vhostusertest.State(0, num), nil})
	}
	for _, index := range []uint32{3, 255, math.MaxUint32} {
		cases = append(cases,
			bad{fmt.Sprint("num-of-ring-", index), vhostuser.MsgSetVringNum, vhostusertest.State(index, 256), nil},
			bad{fmt.Sprint("base-of-ring-", index), vhostuser.MsgSetVringBase, vhostusertest.State(index, 0), nil},
			bad{fmt.Sprint("enable-ring-", index), vhostuser.MsgSetVringEnable, vhostusertest.State(index, 1), nil},
			bad{fmt.Sprint("addr-of-ring-", index), vhostuser.MsgSetVringAddr, vhostuser.VringAddr{Index: index}.AppendTo(nil), nil},
		)
	}
	for _, index := range []uint64{3, 255} {
		for _, request := range []vhostuser.Request{vhostuser.MsgSetVringKick, vhostuser.MsgSetVringCall, vhostuser.MsgSetVringErr} {
			cases = append(cases, bad{fmt.Sprint(request, "-ring-", index), request, vhostusertest.U64(index), []int{eventfd(t)}})
		}
	}
	return cases
}

// Each is refused with an acknowledgement that says so. The session goes on as
// if nothing had been sent: rings that were stopped before carry on where they
// were.
func TestRefusedWithAcknowledgement(t *testing.T) {
	for _, c := range refused(t) {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			f, guest, peer := b.pausedPeer()
			before := openFds()
			if code := f.Ack(c.request, c.payload, c.fds...); code == 0 {
				t.Fatal("acknowledged with success")
			}
			if n := openFds(); n != before {
				t.Errorf("%d descriptors were open before, %d are now", before, n)
			}
			if n := b.stats.Malformed.Load(); n != 1 {
				t.Errorf("%d messages are counted as malformed", n)
			}
			peer.Resume()
			f.Barrier()
			b.expect("start 0", "start 1", "start 2")
			b.traffic(guest, "after it")
		})
	}
}

// Without NEED_REPLY there is no way to tell the frontend, so the session ends,
// and the next one finds everything as it should be.
func TestRefusedWithoutAcknowledgement(t *testing.T) {
	for _, c := range refused(t) {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			f, _, _ := b.pausedPeer()
			f.Tell(c.request, c.payload, c.fds...)
			f.WaitClosed()
			b.endsWith(vhostuser.EndProtocol)
			b.expect("detach")
			b.works()
		})
	}
}

// closing are raw bytes behind which nothing can be understood, or answered.
func closing(t *testing.T) []struct {
	name string
	raw  []byte
	fds  []int
} {
	message := func(request vhostuser.Request, flags vhostuser.Flags, payload []byte) []byte {
		return append(vhostuser.Header{Request: request, Flags: flags, Size: uint32(len(payload))}.AppendTo(nil), payload...)
	}
	header := func(request vhostuser.Request, flags vhostuser.Flags, size uint32) []byte {
		return vhostuser.Header{Request: request, Flags: flags, Size: size}.AppendTo(nil)
	}
	flood := make([]int, 253) // the most that one sendmsg takes, all of them stdin
	const need = vhostuser.FlagNeedReply
	return []struct {
		name string
		raw  []byte
		fds  []int
	}{
		{"huge-size", header(vhostuser.MsgSetMemTable, 1|need, math.MaxUint32), nil},
		{"size-4097", header(vhostuser.MsgGetFeatures, 1|need, 4097), nil},
		{"size-on-empty", message(vhostuser.MsgGetFeatures, 1|need, make([]byte, 8)), nil},
		{"version-0", message(vhostuser.MsgGetFeatures, 0|need, nil), nil},
		{"version-2", message(vhostuser.MsgGetFeatures, 2|need, nil), nil},
		{"version-3", message(vhostuser.MsgGetFeatures, 3|need, nil), nil},
		{"reply-flag", message(vhostuser.MsgGetFeatures, 5, nil), nil},
		{"reserved-flags", message(vhostuser.MsgGetFeatures, 0x11, nil), nil},
		{"fd-flood", message(vhostuser.MsgSetOwner, 1|need, nil), flood},
		{"fd-33", message(vhostuser.MsgSetOwner, 1|need, nil), flood[:33]},
		{"fd-on-get", message(vhostuser.MsgGetFeatures, 1|need, nil), flood[:1]},
		{"get-base-of-ring-3", message(vhostuser.MsgGetVringBase, 1|need, vhostusertest.State(3, 0)), nil},
		{"get-base-of-ring-max", message(vhostuser.MsgGetVringBase, 1|need, vhostusertest.State(math.MaxUint32, 0)), nil},
		{"get-base-truncated", message(vhostuser.MsgGetVringBase, 1|need, make([]byte, 4)), nil},
		{"get-config-no-head", message(vhostuser.MsgGetConfig, 1|need, make([]byte, 11)), nil},
	}
}

func TestClosing(t *testing.T) {
	for _, c := range closing(t) {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			f, _, _ := b.pausedPeer()
			before := openFds()
			f.Write(c.raw, c.fds...)
			f.WaitClosed()
			b.endsWith(vhostuser.EndProtocol)
			b.expect("detach")
			if n := openFds(); n > before {
				t.Errorf("%d descriptors were open before, %d are now", before, n)
			}
			b.works()
		})
	}
}

// The same from a connection that is not the session yet: it never becomes it.
func TestClosingFirst(t *testing.T) {
	for _, c := range closing(t) {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			live, guest, peer := b.pausedPeer()
			f := b.dial()
			f.Write(c.raw, c.fds...)
			peer.Resume()
			live.Barrier()
			b.expect("start 0", "start 1", "start 2")
			b.traffic(guest, "unharmed")
		})
	}
}

// pausedPeer returns a frontend that negotiated everything, and its guest, whose
// rings have carried traffic and are stopped.
func (b *backend) pausedPeer() (*vhostusertest.Frontend, *vhostusertest.Guest, vhostusertest.Peer) {
	b.t.Helper()
	f := b.dial()
	guest := vhostusertest.NewGuest(b.t, vhostusertest.GuestOptions{})
	peer := vhostusertest.OpenVMM(f, guest)
	peer.Init()
	f.SetProtocolFeatures(f.GetProtocolFeatures())
	peer.Start()
	f.Barrier()
	b.traffic(guest, "before it")
	peer.Stop()
	f.Barrier()
	b.events()
	return f, guest, peer
}

// endsWith waits for the end of the session and checks what it is counted as.
func (b *backend) endsWith(reason vhostuser.EndReason) {
	b.t.Helper()
	if err := b.waitEnd(); err == nil {
		b.t.Error("the session ended in good order")
	}
	for r := range vhostuser.EndReasons {
		want := uint64(0)
		if vhostuser.EndReason(r) == reason {
			want = 1
		}
		if n := b.stats.SessionsEnded[r].Load(); n != want {
			b.t.Errorf("%d sessions ended as %v", n, vhostuser.EndReason(r))
		}
	}
}

// works fails unless a new guest finds a backend that works.
func (b *backend) works() {
	b.t.Helper()
	guest := vhostusertest.NewGuest(b.t, vhostusertest.GuestOptions{})
	peer := vhostusertest.QEMU10(b.dial(), guest)
	peer.Init()
	peer.Start()
	b.traffic(guest, "a new session")
	peer.Shutdown()
	if err := b.waitEnd(); err != nil {
		b.t.Error("the next session ended with", err)
	}
}

func memfd(t testing.TB, size int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("scratch", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	return fd
}

func eventfd(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// pipe returns the read and the write end of a pipe.
func pipe(t testing.TB) [2]int {
	t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ends[0]); unix.Close(ends[1]) })
	return ends
}

func directory(t testing.TB) int {
	t.Helper()
	fd, err := unix.Open(t.TempDir(), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// readOnly returns a file that cannot be written.
func readOnly(t testing.TB) int {
	t.Helper()
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}
