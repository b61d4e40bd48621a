package vhostuser_test

import (
	"encoding/binary"
	"math"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// A program is what FuzzSession sends: for each message a byte of control, the
// request, and the payload behind its length in two bytes.
const (
	controlFds       = 0x03 // how many descriptors
	controlKind      = 0x0c // of which kind
	controlNeedReply = 0x10
	controlLie       = 0x20 // the header's size is larger than the payload
	controlRaw       = 0x40 // the payload is sent as it is, without a header
	controlTrailer   = 0x80 // after this the frontend shrinks its memory
)

// pause is a request that is not sent: more time passes than any deadline has.
const pause = 254

type program []byte

func (p program) message(control byte, request vhostuser.Request, payload []byte) program {
	p = append(p, control, byte(request))
	p = binary.LittleEndian.AppendUint16(p, uint16(len(payload)))
	return append(p, payload...)
}

// Any sequence of messages ends in a session that goes on or is closed. What it
// answers is well formed, and at the end nothing is left of it.
func FuzzSession(f *testing.F) {
	for _, seed := range seeds() {
		f.Add([]byte(seed))
	}
	startPoller()
	f.Fuzz(func(t *testing.T, p []byte) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		before := openFds()
		play(t, p)
		if n := openFds(); n != before {
			t.Errorf("%d descriptors before, %d after", before, n)
		}
		if left := mappings(); len(left) > 0 {
			t.Errorf("still mapped: %v", left)
		}
	})
}

// play sends a program, serving every message at once.
func play(t *testing.T, p []byte) {
	b := prepareBackend(t, packed, inBand)
	b.state = []byte("state")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	if err := b.server.Serve(pair[1]); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memory)
	if err := unix.Ftruncate(memory, 1<<20); err != nil {
		t.Fatal(err)
	}
	kinds := otherFds(t)
	defer func() {
		for _, fd := range kinds {
			unix.Close(fd)
		}
	}()
	kinds[0] = memory

	messages := 0
	for len(p) >= 4 && b.server.Attached() {
		control, request, size := p[0], vhostuser.Request(p[1]), int(binary.LittleEndian.Uint16(p[2:]))
		p = p[4:]
		payload := p[:min(size, len(p))]
		p = p[len(payload):]
		switch request {
		case 255:
			request = math.MaxUint32
		case pause:
			b.server.Expire(b.loop.Now() + time.Hour)
			continue
		}
		b.server.ConfigChanged()
		var raw []byte
		if control&controlRaw == 0 {
			h := vhostuser.Header{Request: request, Flags: vhostuser.FlagVersion, Size: uint32(len(payload))}
			if control&controlNeedReply != 0 {
				h.Flags |= vhostuser.FlagNeedReply
			}
			if control&controlLie != 0 {
				h.Size++
			}
			raw = h.AppendTo(nil)
			messages++
		} else {
			messages += len(payload)/vhostuser.HeaderSize + 1
		}
		raw = append(raw, payload...)
		var oob []byte
		if n := control & controlFds; n > 0 {
			fds := make([]int, n)
			for i := range fds {
				fds[i] = kinds[control&controlKind>>2]
			}
			oob = unix.UnixRights(fds...)
		}
		if len(raw) > 0 {
			if err := unix.Sendmsg(pair[0], raw, oob, nil, unix.MSG_NOSIGNAL); err != nil {
				break
			}
		}
		if control&controlTrailer != 0 {
			unix.Ftruncate(memory, 4096)
		}
		for range 4 {
			b.server.Turn()
		}
	}
	if err := b.server.Close(); err != nil {
		t.Error("close:", err)
	}
	if err := b.loop.Close(); err != nil {
		t.Error("close the loop:", err)
	}
	checkReplies(t, pair[0], messages)
	if b.attached || b.queues[0] != nil || b.queues[1] != nil || b.queues[2] != nil {
		t.Error("the device still has the session")
	}
	log := b.events()
	if n := len(log); n < 2 || log[0] != "attach" || log[n-1] != "detach" {
		t.Errorf("the device saw %v", log)
	}
}

// otherFds returns a descriptor of each kind but the first, which is the memory.
func otherFds(t *testing.T) (fds [4]int) {
	t.Helper()
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return [4]int{-1, fd, ends[0], ends[1]}
}

// checkReplies reads what the backend sent: whole replies, one a message at most.
func checkReplies(t *testing.T, fd, most int) {
	t.Helper()
	var got []byte
	for {
		p := make([]byte, 1<<16)
		n, _, err := unix.Recvfrom(fd, p, unix.MSG_DONTWAIT)
		if n <= 0 || err != nil {
			break
		}
		got = append(got, p[:n]...)
	}
	for n := 0; len(got) > 0; n++ {
		if n == most {
			t.Fatal("more replies than messages")
		}
		if len(got) < vhostuser.HeaderSize {
			t.Fatalf("%d bytes of a header", len(got))
		}
		h := vhostuser.ParseHeader(got)
		got = got[vhostuser.HeaderSize:]
		if h.Flags != vhostuser.FlagVersion|vhostuser.FlagReply || h.Size > vhostuser.MaxPayload || int(h.Size) > len(got) {
			t.Fatalf("header %+v before %d bytes", h, len(got))
		}
		got = got[h.Size:]
	}
}

// seeds are programs of well-formed sessions, and of the golden vectors.
func seeds() []program {
	const (
		need    = controlNeedReply
		oneMem  = 1
		oneFd   = 1 | 1<<2
		onePipe = 1 | 2<<2
		base    = uint64(1) << 52
	)
	state := vhostusertest.State
	u64 := vhostusertest.U64
	region := guestmem.Region{GuestAddr: 0x100000, Size: 1 << 20, UserAddr: base}
	table := vhostuser.MemRegions{region}.AppendTo(nil)
	single := vhostuser.SingleMemRegion(region).AppendTo(nil)
	negotiate := program(nil).
		message(0, vhostuser.MsgGetFeatures, nil).
		message(0, vhostuser.MsgGetProtocolFeatures, nil).
		message(need, vhostuser.MsgSetProtocolFeatures, u64(0x8a22b)).
		message(need, vhostuser.MsgGetQueueNum, nil).
		message(need|oneFd, vhostuser.MsgSetBackendReqFd, nil).
		message(need, vhostuser.MsgSetOwner, nil).
		message(need, vhostuser.MsgGetConfig, append(vhostuser.ConfigSpace{Size: 8}.AppendTo(nil), make([]byte, 8)...)).
		message(need, vhostuser.MsgSetFeatures, u64(offered|vhostuser.FeatureProtocolFeatures))
	rings := func(p program) program {
		for i := range uint64(3) {
			at := base + i*0x10000
			addr := vhostuser.VringAddr{Index: uint32(i), Desc: at, Avail: at + 0x4000, Used: at + 0x8000}
			p = p.
				message(need, vhostuser.MsgSetVringNum, state(uint32(i), 128)).
				message(need, vhostuser.MsgSetVringBase, state(uint32(i), 0)).
				message(need, vhostuser.MsgSetVringAddr, addr.AppendTo(nil)).
				message(need|oneFd, vhostuser.MsgSetVringKick, u64(i)).
				message(need|oneFd, vhostuser.MsgSetVringCall, u64(i)).
				message(need|onePipe, vhostuser.MsgSetVringErr, u64(i)).
				message(need, vhostuser.MsgSetVringEnable, state(uint32(i), 1))
		}
		return p
	}
	migration := func(p program) program {
		log := vhostuser.LogRegion{Size: 100, Offset: 8}.AppendTo(nil)
		addr := vhostuser.VringAddr{Flags: vhostuser.VringFlagLog, Desc: base, Avail: base + 0x4000, Used: base + 0x8000, Log: 0x108000}
		return p.
			message(need|oneMem, vhostuser.MsgSetLogBase, log).
			message(need|oneFd, vhostuser.MsgSetLogFd, nil).
			message(need, vhostuser.MsgSetFeatures, u64(offered|vhostuser.FeatureProtocolFeatures|vhostuser.FeatureLogAll)).
			message(need, vhostuser.MsgSetVringAddr, addr.AppendTo(nil)).
			message(need|oneMem, vhostuser.MsgSetLogBase, log)
	}
	transfer := func(p program, direction uint32, fds byte) program {
		return p.
			message(fds, vhostuser.MsgSetDeviceStateFd, vhostuser.DeviceState{Direction: direction}.AppendTo(nil)).
			message(0, vhostuser.MsgCheckDeviceState, nil).
			message(0, vhostuser.MsgGetFeatures, nil).
			message(0, pause, nil)
	}
	const inBandProtocol = vhostuser.ProtocolReplyAck | vhostuser.ProtocolBackendReq | vhostuser.ProtocolInBandNotifications
	umlPacked := program(nil).
		message(need, vhostuser.MsgSetProtocolFeatures, u64(uint64(inBandProtocol))).
		message(need|onePipe, vhostuser.MsgSetBackendReqFd, nil).
		message(need, vhostuser.MsgSetFeatures, u64(packedFeatures)).
		message(need|oneMem, vhostuser.MsgSetMemTable, table).
		message(need, vhostuser.MsgSetVringNum, state(1, 5)).
		message(need, vhostuser.MsgSetVringBase, state(1, 0)).
		message(need, vhostuser.MsgSetVringAddr, vhostuser.VringAddr{Index: 1, Desc: base, Avail: base + 0x4000, Used: base + 0x8000}.AppendTo(nil)).
		message(need, vhostuser.MsgSetVringEnable, state(1, 1)).
		message(need, vhostuser.MsgVringKick, state(1, 0)).
		message(need, vhostuser.MsgSetVringEnable, state(1, 0)).
		message(need, vhostuser.MsgGetVringBase, state(1, 0))
	withTable := rings(append(program(nil), negotiate...).message(need|oneMem, vhostuser.MsgSetMemTable, table))
	withSlots := rings(append(program(nil), negotiate...).
		message(need, vhostuser.MsgGetMaxMemSlots, nil).
		message(need|oneMem, vhostuser.MsgAddMemReg, single))
	return []program{
		withTable.
			message(need, vhostuser.MsgSetVringEnable, state(1, 0)).
			message(need, vhostuser.MsgGetVringBase, state(1, 0)).
			message(need, vhostuser.MsgResetDevice, nil),
		withSlots.
			message(need, vhostuser.MsgRemMemReg, single).
			message(need|oneMem, vhostuser.MsgAddMemReg, single).
			message(need, vhostuser.MsgSetVringKick, u64(1|1<<8)),
		append(program(nil), withTable...).
			message(need|controlTrailer|oneMem, vhostuser.MsgSetMemTable, table).
			message(need, vhostuser.MsgSetVringEnable, state(1, 0)),
		migration(append(program(nil), withTable...)).
			message(need|controlTrailer, vhostuser.MsgResetDevice, nil),
		umlPacked,
		transfer(append(program(nil), negotiate...), vhostuser.TransferSave, onePipe), // to the end that reads
		transfer(append(program(nil), negotiate...), vhostuser.TransferSave, 1|3<<2),
		transfer(append(program(nil), negotiate...), vhostuser.TransferLoad, onePipe),
		transfer(append(program(nil), negotiate...), vhostuser.TransferLoad, oneFd),
		program(nil).message(controlRaw, 0, golden.getFeatures),
		program(nil).message(controlRaw, 0, golden.getConfig),
		program(nil).message(controlRaw, 0, golden.setVringCall),
		program(nil).message(controlRaw|3, 0, golden.setVringEnable[:5]),
		program(nil).message(controlLie, vhostuser.MsgGetFeatures, nil).message(controlRaw, 0, []byte{1}),
		program(nil).message(3|1<<2, 99, []byte("descriptors")),
	}
}
