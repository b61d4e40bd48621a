package device

import (
	"math"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// newSession connects a frontend that sets everything up.
func (m *machine) newSession() {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	m.frontend, m.attached, m.spoken = pair[0], true, nil
	if err := m.server.Serve(pair[1]); err != nil {
		m.t.Fatal(err)
	}
	const protocol = vhostuser.ProtocolConfig | vhostuser.ProtocolResetDevice | vhostuser.ProtocolDeviceState
	m.tell(vhostuser.MsgSetOwner, nil)
	m.tell(vhostuser.MsgSetProtocolFeatures, vhostusertest.U64(uint64(protocol)))
	m.tell(vhostuser.MsgSetFeatures, vhostusertest.U64(m.features))
	m.tell(vhostuser.MsgGetConfig, vhostuser.ConfigSpace{Size: 8}.AppendTo(nil), make([]byte, 8)...)
	m.tellFds(vhostuser.MsgSetMemTable, vhostuser.MemRegions(m.mem.Regions()).AppendTo(nil), m.mem.Fds()...)
}

// endSession closes the frontend's socket, and lets the device see it.
func (m *machine) endSession() {
	if m.frontend < 0 {
		return
	}
	m.listenToBackend()
	unix.Close(m.frontend)
	m.frontend = -1
}

func (m *machine) tell(r vhostuser.Request, payload []byte, more ...byte) {
	m.tellFds(r, append(payload, more...))
}

// tellFds sends a message. A frontend whose session has ended is not heard.
func (m *machine) tellFds(r vhostuser.Request, payload []byte, fds ...int) {
	m.write(vhostusertest.Message(r, 0, payload), fds...)
}

func (m *machine) write(p []byte, fds ...int) {
	if m.frontend < 0 {
		return
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	unix.SendmsgN(m.frontend, p, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}

// startRing starts ring i where it stopped.
func (m *machine) startRing(i int) {
	r := m.rings[i]
	if m.frontend < 0 || r.running {
		return
	}
	c := r.Config()
	addr := vhostuser.VringAddr{
		Index: uint32(i), Desc: userAddr(c.Desc), Avail: userAddr(c.Avail), Used: userAddr(c.Used),
	}
	m.tell(vhostuser.MsgSetVringNum, vhostusertest.State(uint32(i), uint32(c.Size)))
	m.tell(vhostuser.MsgSetVringAddr, addr.AppendTo(nil))
	m.tell(vhostuser.MsgSetVringBase, vhostusertest.State(uint32(i), r.at))
	m.tellFds(vhostuser.MsgSetVringCall, vhostusertest.U64(uint64(i)), r.CallFd())
	m.tellFds(vhostuser.MsgSetVringKick, vhostusertest.U64(uint64(i)), r.KickFd())
	m.tell(vhostuser.MsgSetVringEnable, vhostusertest.State(uint32(i), 1))
	r.running = true
}

// stopRing stops ring i and waits until it is known where.
func (m *machine) stopRing(i int) {
	r := m.rings[i]
	if m.frontend < 0 || !r.running {
		return
	}
	m.tell(vhostuser.MsgGetVringBase, vhostusertest.State(uint32(i), 0))
	r.running = false
	m.waits = func() bool { return r.stopped }
	r.stopped = false
}

// listenToBackend takes what the backend has said.
func (m *machine) listenToBackend() {
	if m.frontend < 0 {
		return
	}
	var p [4096]byte
	for {
		n, err := unix.Read(m.frontend, p[:])
		if n <= 0 || err != nil {
			break
		}
		m.spoken = append(m.spoken, p[:n]...)
	}
	for len(m.spoken) >= vhostuser.HeaderSize {
		h := vhostuser.ParseHeader(m.spoken)
		if h.Size > math.MaxUint16 || h.Flags != vhostuser.FlagVersion|vhostuser.FlagReply {
			m.t.Fatalf("reply with the header %+v", h)
		}
		end := vhostuser.HeaderSize + int(h.Size)
		if len(m.spoken) < end {
			return
		}
		if h.Request == vhostuser.MsgGetVringBase && h.Size == 8 && !m.wild {
			m.ringStopped(vhostuser.ParseVringState(m.spoken[vhostuser.HeaderSize:end]))
		}
		m.spoken = m.spoken[end:]
	}
}

// ringStopped checks that a ring that stops is given back whole.
func (m *machine) ringStopped(s vhostuser.VringState) {
	if int(s.Index) >= len(m.rings) {
		m.t.Fatalf("ring %d stopped", s.Index)
	}
	r := m.rings[s.Index]
	r.at, r.stopped = s.Num, true
	m.checkStopped(int(s.Index))
}

// checkStopped checks that the device holds no chain of a ring: of the tx ring it
// has used every one, and others it would get again.
func (m *machine) checkStopped(i int) {
	if m.wild {
		return
	}
	r := m.rings[i]
	if used, added := r.UsedIdx(), r.AvailIdx(); i == vhostusertest.TxIndex && used != added {
		m.t.Errorf("tx ring stopped with %d chains used of %d", used, added)
	}
	if !r.Config().Packed && !r.running && uint16(r.at) != r.UsedIdx() {
		m.t.Errorf("ring %d stopped at %d, used %d", i, r.at, r.UsedIdx())
	}
}

// changeState saves the device's state and perhaps loads it, or what the program
// has in its place.
func (m *machine) changeState(p *program) {
	kind := p.below(4) // save; load what was saved; load junk; never say the end
	for i := range m.rings {
		if m.rings[i].running {
			return
		}
	}
	if m.frontend < 0 {
		return
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer unix.Close(pair[1])
	d := vhostuser.DeviceState{Direction: vhostuser.TransferSave, Phase: vhostuser.TransferStopped}
	state := m.saved
	if kind == 2 {
		state = p.take(p.below(256))
	}
	if kind > 0 {
		d.Direction = vhostuser.TransferLoad
		unix.Write(pair[0], state)
		m.abandon() // the guest of the state is another one
	}
	m.tellFds(vhostuser.MsgSetDeviceStateFd, d.AppendTo(nil), pair[1])
	m.tell(vhostuser.MsgCheckDeviceState, nil)
	m.transfers = append(m.transfers, pair[0])
	m.saving = kind == 0
	if kind < 3 && kind > 0 {
		unix.Shutdown(pair[0], unix.SHUT_WR)
	}
}

// takeSaved takes a state that has come.
func (m *machine) takeSaved() {
	if !m.saving || len(m.transfers) == 0 {
		return
	}
	var p [1 << 16]byte
	if n, _ := unix.Read(m.transfers[len(m.transfers)-1], p[:]); n > 0 {
		m.saved, m.saving = append([]byte(nil), p[:n]...), false
	}
}

// anyMessage sends a message that means anything, or not even one.
func (m *machine) anyMessage(p *program) {
	request, flags := vhostuser.Request(p.next()), vhostuser.Flags(p.next())
	n := p.below(64)
	payload := p.take(n)
	kinds := []int{m.mem.Fds()[0], m.rings[0].KickFd(), m.rings[1].CallFd(), m.frontend}
	fds := make([]int, flags>>6)
	for i := range fds {
		fds[i] = kinds[(int(flags)>>4+i)%len(kinds)]
	}
	raw := vhostusertest.Message(request, flags&vhostuser.FlagNeedReply, payload)
	if flags&1 != 0 {
		raw = payload
	}
	m.goWild()
	m.write(raw, fds...)
}
