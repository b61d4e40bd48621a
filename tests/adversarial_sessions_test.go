package tests

import (
	"errors"
	"io"
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// Sessions that go wrong as a whole: how they begin, what disappears under them,
// how they end.
func TestAdversarialSessions(t *testing.T) {
	t.Parallel()
	confront(t, newHost(t), sessionInputs)
}

var sessionInputs = concat([]input{
	{"2 byte-dribble", func(h *host) {
		b := h.plug(h.t, func(f *vhostusertest.Frontend, g *vhostusertest.Guest) vhostusertest.Peer {
			f.Piecewise = true
			return vhostusertest.QEMU10(f, g)
		}, vhostusertest.GuestOptions{})
		b.start()
		b.mustWork(kib)
		b.powerOff()
	}},
	{"12 need-reply-without-feature", func(h *host) {
		f := h.frontend(h.t)
		f.Write(vhostusertest.Message(vhostuser.MsgSetOwner, vhostuser.FlagNeedReply, nil))
		f.Barrier() // fails if there is a reply
	}},
	{"11 unknown before everything", func(h *host) {
		f := h.frontend(h.t)
		f.Write(vhostusertest.Message(45, vhostuser.FlagNeedReply, nil))
		f.WaitClosed()
	}},
	{"24 region-fd-short, by a page", func(h *host) {
		b := h.plug(h.t, vhostusertest.QEMU10, vhostusertest.GuestOptions{})
		if err := b.memory.Memory.Shrink(0, int64(ram[0].Size-page)); err != nil {
			h.t.Fatal(err)
		}
		m := message{request: vhostuser.MsgSetMemTable, payload: table(b.memory.Regions()...)}
		if b.frontend.Ack(m.request, m.payload, b.memory.Fds()...) == 0 {
			h.t.Error("memory that is not there is accepted")
		}
	}},
	{"27 memtable-while-running", func(h *host) {
		b := h.boot(h.t)
		g, c := b.dial()
		done := make(chan struct{})
		go func() {
			defer close(done)
			converse(b.t, c, g, both(8*mib, 1), both(8*mib, 2))
		}()
		swaps := 0
		for running := true; running; swaps++ {
			b.frontend.SetMemTable(b.memory.Regions(), b.memory.Fds(), 0)
			b.frontend.Barrier()
			select {
			case <-done:
				running = false
			default:
			}
		}
		if swaps < 10 {
			h.t.Errorf("only %d tables came during 16 MiB", swaps)
		}
		b.mustWork(kib)
		b.powerOff()
	}},
	{"31 addr-before-memtable", func(h *host) {
		b := h.plug(h.t, vhostusertest.QEMU10, vhostusertest.GuestOptions{})
		b.frontend.SetVringNum(event, size)
		if msg(vhostuser.MsgSetVringAddr, addresses(ringParts)).ack(b) == 0 {
			h.t.Error("a ring nowhere is accepted")
		}
		b.start()
		b.mustWork(kib)
		b.powerOff()
	}},
	{"39 enable-before-anything", func(h *host) {
		b := h.plug(h.t, vhostusertest.Crosvm, vhostusertest.GuestOptions{})
		for i := range uint32(3) {
			b.frontend.SetVringEnable(i, true)
		}
		b.start()
		b.mustWork(kib)
		b.powerOff()
	}},
	{"42 set-features-unoffered", func(h *host) {
		b := h.plug(h.t, vhostusertest.QEMU72, vhostusertest.GuestOptions{})
		msg(vhostuser.MsgSetFeatures, u64(math.MaxUint64)).ack(b)
		b.start()
		b.mustWork(kib)
		b.powerOff()
	}},
	{"49 log too small for memory", func(h *host) {
		b := h.migration()
		b.frontend.SetLogBase(vhostusertest.NewDirtyLog(h.t, 8, 0)) // none of the guest's pages
		lost := h.metric("dirty_log_lost_pages_total")
		b.mustWork(64 * kib)
		b.powerOff()
		b.frontend.Close()
		vm.Eventually(h.t, patience, "lost pages are counted", func() bool { return h.metric("dirty_log_lost_pages_total") > lost })
	}},
	{"49 log that shrinks", func(h *host) {
		b := h.migration()
		log := vhostusertest.NewDirtyLog(h.t, 4*page, 0)
		b.frontend.SetLogBase(log)
		_, c := b.dial()
		log.Shrink(h.t)
		mustWrite(h.t, c, []byte("this marks a page"))
		b.frontend.WaitClosed()
		mustEndAt(h.t, c)
		b.powerOff()
	}},
	{"49 log replaced under traffic", func(h *host) {
		b := h.migration()
		g, c := b.dial()
		done := background(func() bool {
			converse(b.t, c, g, both(4*mib, 1), both(4*mib, 2))
			return true
		})
		for range 200 {
			b.frontend.SetLogBase(vhostusertest.NewDirtyLog(h.t, 4*page, 0))
		}
		done()
		b.powerOff()
	}},
	loads("52 device-state load garbage", func(w int) { unix.Write(w, bytesOf(page)) }),
	loads("52 device-state load nothing", func(int) {}),
	loads("52 device-state load 1 GiB", func(w int) {
		for err := error(nil); err == nil; { // until it reads no more
			_, err = unix.Write(w, make([]byte, 64*kib))
		}
	}),
	{"52 device-state through what is no channel", func(h *host) {
		b := h.plug(h.t, stateful, vhostusertest.GuestOptions{})
		for _, direction := range []uint32{vhostuser.TransferSave, vhostuser.TransferLoad} {
			for name, fd := range map[string]func(testing.TB) int{
				"directory": opened("/"), "file": aPage, "read-only device": opened("/dev/null"), "dead pipe": deadPipe, "broken pipe": brokenPipe,
			} {
				if b.frontend.SetDeviceStateFd(direction, vhostuser.TransferStopped, fd(h.t)) != vhostusertest.TransferAccepted {
					continue
				}
				if b.frontend.CheckDeviceState() == 0 {
					h.t.Errorf("direction %d through a %s: success", direction, name)
				}
			}
		}
		b.start()
		b.mustWork(kib)
		b.powerOff()
	}},
	{"52 device-state of no kind, without a descriptor, unasked for", func(h *host) {
		b := h.plug(h.t, stateful, vhostusertest.GuestOptions{})
		for _, code := range []uint64{
			b.frontend.SetDeviceStateFd(2, 0, anEventfd(h.t)),
			b.frontend.SetDeviceStateFd(0, 1, anEventfd(h.t)),
			b.frontend.SetDeviceStateFd(math.MaxUint32, math.MaxUint32, anEventfd(h.t)),
			b.frontend.SetDeviceStateFd(0, 0),
			b.frontend.CheckDeviceState() | vhostusertest.TransferAccepted,
		} {
			if code&0xff == 0 || code&vhostusertest.TransferAccepted == 0 {
				h.t.Errorf("answered by 0x%x", code)
			}
		}
		b.start()
		if code := b.frontend.SetDeviceStateFd(vhostuser.TransferSave, 0, anEventfd(h.t)); code&0xff == 0 {
			h.t.Errorf("a running device's state is answered by 0x%x", code)
		}
		b.mustWork(kib)
		b.powerOff()
	}},
	{"52 device-state, and the frontend leaves", func(h *host) {
		b := h.plug(h.t, stateful, vhostusertest.GuestOptions{})
		r, w := pipeOf(h.t)
		if code := b.frontend.SetDeviceStateFd(vhostuser.TransferLoad, 0, r); code != vhostusertest.TransferAccepted {
			h.t.Fatalf("answered by 0x%x", code)
		}
		h.t.Cleanup(func() { unix.Close(r); unix.Close(w) })
		unix.Write(w, []byte("half"))
		b.frontend.Write(vhostusertest.Message(vhostuser.MsgCheckDeviceState, vhostuser.FlagNeedReply, nil))
		h.mustIdle()
		b.frontend.Close()
		h.await(0, "frontend_attached")
	}},
	{"53 rem-while-running", func(h *host) {
		b := h.boot(h.t)
		g, c := b.dial()
		done := background(func() bool {
			converse(b.t, c, g, both(4*mib, 1), both(4*mib, 2))
			return true
		})
		for range 20 {
			for _, r := range b.memory.Regions() {
				b.frontend.RemMemReg(r)
			}
			b.frontend.Barrier()
			for i, r := range b.memory.Regions() {
				b.frontend.AddMemReg(r, b.memory.Fds()[i])
			}
			b.frontend.Barrier()
		}
		done()
		b.mustWork(kib)
		b.powerOff()
	}},
	{"55 connect-while-connected, connect-and-idle x1000", func(h *host) {
		b := h.boot(h.t)
		g, c := b.dial()
		var idle []*vhostusertest.Frontend
		for i := range 1000 {
			f := h.frontend(h.t)
			if i%2 == 0 {
				f.Close()
				continue
			}
			idle = append(idle, f)
		}
		b.mustWorkAsBefore(g, c)
		wants := h.frontend(h.t)
		wants.Write(getFeatures)
		b.mustWorkAsBefore(g, c)
		for _, f := range idle {
			f.Close()
		}
		wants.Close()
		b.powerOff()
	}},
	{"56 disconnect-mid-traffic", func(h *host) {
		port := newPort()
		l := h.Listen(h.t, port)
		kill := startFrontend(h.t, h, port)
		c := acceptFrom(h.t, l)
		kill()
		mustRead(h.t, c, bytesOf(window))
	}},
	{"57 reset-device storm under traffic", func(h *host) {
		b := h.boot(h.t)
		g, c := b.dial()
		over := background(func() error { _, err := io.Copy(g, endless{}); return err })
		read := background(func() error { _, err := io.Copy(io.Discard, c); return err })
		for range 500 {
			b.frontend.ResetDevice()
		}
		b.frontend.Barrier()
		b.powerOff()
		if err := over(); !errors.Is(err, muxertest.ErrClosed) {
			h.t.Errorf("the guest's writer ended by %v", err)
		}
		if err := read(); err != nil {
			h.t.Error(err)
		}
		b.start()
		b.mustWork(kib)
		b.powerOff()
	}},
	{"57 reset-device storm between resumes", func(h *host) {
		b := h.boot(h.t)
		for range 50 {
			b.dial()
			b.reset()
			b.start()
		}
		b.mustWork(kib)
		b.powerOff()
	}},
}, vanishingInputs())

// stateful is a frontend that can save and load the device's state, and log.
func stateful(f *vhostusertest.Frontend, g *vhostusertest.Guest) vhostusertest.Peer {
	return vhostusertest.NewCloudHypervisor(f, g)
}

// migration boots a guest whose every write is logged.
func (h *host) migration() *board {
	b := h.plug(h.t, stateful, vhostusertest.GuestOptions{})
	b.start()
	b.peer.(*vhostusertest.CloudHypervisor).StartDirtyLog()
	return b
}

// loads passes a state that is none through a pipe. A driver that comes then is
// served all the same.
func loads(name string, write func(w int)) input {
	return input{name, func(h *host) {
		b := h.plug(h.t, stateful, vhostusertest.GuestOptions{})
		r, w := pipeOf(h.t)
		if code := b.frontend.SetDeviceStateFd(vhostuser.TransferLoad, vhostuser.TransferStopped, r); code != vhostusertest.TransferAccepted {
			h.t.Fatalf("answered by 0x%x", code)
		}
		unix.Close(r) // the last reader is the daemon
		write(w)
		unix.Close(w)
		if b.frontend.CheckDeviceState() == 0 {
			h.t.Error("success")
		}
		b.start()
		b.mustWork(kib)
		b.powerOff()
	}}
}

// pipeOf returns a pipe. Its ends may be closed before the test ends.
func pipeOf(t testing.TB) (r, w int) {
	t.Helper()
	r, w, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

func concat(lists ...[]input) (all []input) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// fading is where the part of the guest's memory lies that will disappear.
var fading = virtqueuetest.Extent{GuestAddr: 1 << 32, Size: mib}

// vanishing is a way in which guest memory disappears under a session.
type vanishing struct {
	name string
	keep int64                    // bytes of the fading extent that stay
	post func(v *vanishingVictim) // has the device need that memory soon
}

// vanishingVictim is a guest with an open connection, some of whose memory fades.
type vanishingVictim struct {
	*board
	driver *muxertest.Driver
	port   uint32 // the host's
	c      io.ReadWriter
}

// header puts the header of a packet of size bytes at gpa.
func (v *vanishingVictim) header(gpa uint64, size uint32) virtqueuetest.Desc {
	h := v.driver.Header(lastWordsPort, v.port, csm.OpRW)
	h.Len = size
	var wire [csm.HeaderSize]byte
	h.Encode(&wire)
	v.memory.Memory.Write(gpa, wire[:])
	return virtqueuetest.Desc{Addr: gpa, Len: csm.HeaderSize}
}

// send makes a packet available to the device, which is not kicked.
func (v *vanishingVictim) send(descs ...virtqueuetest.Desc) {
	chain(descs...)(v.memory.Memory, v.memory.Tx())
}

// offer makes a receive buffer available likewise.
func (v *vanishingVictim) offer(descs ...virtqueuetest.Desc) {
	for i := range descs {
		descs[i].Flags |= written
	}
	chain(descs...)(v.memory.Memory, v.memory.Rx())
}

var vanishings = []vanishing{
	{"a packet's header", 0, func(v *vanishingVictim) { v.send(v.header(fading.GuestAddr, 0)) }},
	{"a packet's payload", 0, func(v *vanishingVictim) {
		v.send(with(v.header(inRAM, page), next, 0), virtqueuetest.Desc{Addr: fading.GuestAddr, Len: page})
	}},
	{"half of a packet's payload", 8 * page, func(v *vanishingVictim) {
		v.send(with(v.header(inRAM, 16*page), next, 0), virtqueuetest.Desc{Addr: fading.GuestAddr, Len: 16 * page})
	}},
	{"an indirect table", 0, func(v *vanishingVictim) {
		v.memory.Memory.PutTable(fading.GuestAddr, v.header(inRAM, 0))
		v.send(virtqueuetest.Desc{Addr: fading.GuestAddr, Len: 16, Flags: refers})
	}},
	{"a receive buffer", 0, func(v *vanishingVictim) {
		v.offer(virtqueuetest.Desc{Addr: fading.GuestAddr, Len: page})
	}},
	{"the payload's part of a receive buffer", 0, func(v *vanishingVictim) {
		v.offer(virtqueuetest.Desc{Addr: inRAM, Len: csm.HeaderSize, Flags: next}, virtqueuetest.Desc{Addr: fading.GuestAddr, Len: page})
	}},
	{"half of a receive buffer", 4 * page, func(v *vanishingVictim) {
		v.offer(virtqueuetest.Desc{Addr: fading.GuestAddr, Len: 8 * page})
	}},
	{"the end of a receive buffer's header", page, func(v *vanishingVictim) {
		v.offer(virtqueuetest.Desc{Addr: fading.GuestAddr + page - 20, Len: 2 * page})
	}},
}

// vanishingInputs take memory away from a session: it ends for that reason.
func vanishingInputs() (inputs []input) {
	for _, way := range vanishings {
		inputs = append(inputs, input{"25 region-fd-shrunk: " + way.name, func(h *host) {
			v := h.victim(h.t)
			ended := h.metric("sessions_ended_total", `reason="memory"`)
			way.strike(v)
			v.frontend.WaitClosed()
			h.await(ended+1, "sessions_ended_total", `reason="memory"`)
		}})
	}
	return append(inputs, input{"25 region-fd-shrunk: the rings", func(h *host) {
		b := h.boot(h.t)
		_, c := b.dial()
		b.powerOff() // or the test would fault, too
		if err := b.memory.Memory.Shrink(0, 0); err != nil {
			h.t.Fatal(err)
		}
		b.memory.Tx().ForceKick()
		b.frontend.WaitClosed()
		mustEndAt(h.t, c)
	}})
}

// victim boots a guest without receive buffers that has opened a connection.
func (h *host) victim(t testing.TB) *vanishingVictim {
	t.Helper()
	b := h.plug(t, vhostusertest.QEMU10, vhostusertest.GuestOptions{Extents: append(ram[:1:1], fading)})
	b.options = muxertest.Options{Buffers: -1}
	b.peer.Start()
	v := &vanishingVictim{board: b, driver: b.driver()}
	port, l := b.listen()
	v.port = port
	v.driver.Send(v.driver.Header(lastWordsPort, port, csm.OpRequest), nil)
	v.driver.PostBuffers(1)
	v.driver.Expect(csm.OpResponse)
	v.c = acceptFrom(t, l)
	if !v.driver.WaitTx(patience) {
		t.Fatal("the daemon keeps the REQUEST")
	}
	return v
}

// strike takes the memory away before the device is told to use it.
func (way *vanishing) strike(v *vanishingVictim) {
	v.t.Helper()
	way.post(v)
	if err := v.memory.Memory.Shrink(1, way.keep); err != nil {
		v.t.Fatal(err)
	}
	v.c.Write(bytesOf(64 * kib)) // for the receive buffer
	v.memory.Tx().ForceKick()
	v.memory.Rx().ForceKick()
}
