package device

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// socketPair returns two connected sockets.
func (m *machine) socketPair() (ours, theirs int) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	return pair[0], pair[1]
}

// newSession connects a frontend that sets everything up but the rings.
func (m *machine) newSession() {
	ours, theirs := m.socketPair()
	m.frontend, m.attached = ours, true
	m.replies, m.requests, m.due = m.replies[:0], m.requests[:0], m.due[:0]
	if err := m.server.Serve(theirs); err != nil {
		m.t.Fatal(err)
	}
	m.tell(vhostuser.MsgSetOwner, nil)
	m.acks = m.protocol&vhostuser.ProtocolReplyAck != 0
	m.tell(vhostuser.MsgSetProtocolFeatures, vhostusertest.U64(uint64(m.protocol)))
	if m.protocol&vhostuser.ProtocolBackendReq != 0 {
		ours, theirs := m.socketPair()
		m.channel = ours
		m.tell(vhostuser.MsgSetBackendReqFd, nil, theirs)
		unix.Close(theirs)
	}
	m.acknowledge()
	m.readConfig()
	m.passMemory()
}

// endSession closes the frontend's sockets.
func (m *machine) endSession() {
	m.listenToBackend()
	for _, fd := range []*int{&m.frontend, &m.channel} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	m.acks, m.log, m.logging = false, nil, nil
}

// awaitEnd lets the device see that the session has ended.
func (m *machine) awaitEnd() { m.waits = func() bool { return !m.attached } }

// nextSession lets the driver go on behind another frontend.
func (m *machine) nextSession() {
	m.leave()
	if m.gone {
		return
	}
	for _, r := range m.rings {
		if !m.hostile && r.running {
			r.at = uint32(r.UsedIdx())
			if r.Config().Packed {
				m.wild = true // where it stopped is not known
			}
		}
		r.running = false
	}
	if m.untouched() {
		m.cid = m.configured
	}
	m.newSession()
	m.startRings()
}

// untouched reports whether nothing says that the driver is not one that begins:
// it has had no packet of the device, and the device none of it. It is to have read
// its CID then.
func (m *machine) untouched() bool {
	rx, tx := m.rings[vhostusertest.RxIndex], m.rings[vhostusertest.TxIndex]
	return rx.at == rx.Base() && tx.at == tx.Base()
}

// tell sends a message.
func (m *machine) tell(r vhostuser.Request, payload []byte, fds ...int) {
	var flags vhostuser.Flags
	if m.acks {
		flags = vhostuser.FlagNeedReply
	}
	if m.acks || slices.Contains(answered, r) {
		m.due = append(m.due, r)
	}
	m.write(vhostusertest.Message(r, flags, payload), fds...)
}

// write sends what may be a message. A frontend whose session has ended is not
// heard.
func (m *machine) write(p []byte, fds ...int) {
	if m.frontend < 0 {
		return
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, err := unix.SendmsgN(m.frontend, p, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if errors.Is(err, unix.EAGAIN) {
		m.goWild() // it awaits the end of a transfer, and hears no more
	}
}

// answer waits until the backend has answered everything.
func (m *machine) answer() {
	m.tell(vhostuser.MsgGetFeatures, nil)
	m.waits = m.answeredAll
}

func (m *machine) answeredAll() bool { return len(m.due) == 0 }

// acknowledge passes the features.
func (m *machine) acknowledge() {
	features := m.features
	if m.log != nil {
		features |= vhostuser.FeatureLogAll
	}
	m.tell(vhostuser.MsgSetFeatures, vhostusertest.U64(features))
}

func (m *machine) readConfig() {
	m.tell(vhostuser.MsgGetConfig, append(vhostuser.ConfigSpace{Size: 8}.AppendTo(nil), make([]byte, 8)...))
}

func (m *machine) startRings() {
	for i := range m.rings {
		m.startRing(i)
	}
}

// startRing starts ring i where it stopped, and enables it.
func (m *machine) startRing(i int) {
	r := m.rings[i]
	if m.frontend < 0 {
		return
	}
	if !r.running {
		m.tell(vhostuser.MsgSetVringNum, vhostusertest.State(uint32(i), uint32(r.Config().Size)))
		m.placeRing(i)
		m.tell(vhostuser.MsgSetVringBase, vhostusertest.State(uint32(i), r.at))
		if !m.inBand {
			m.tell(vhostuser.MsgSetVringCall, vhostusertest.U64(uint64(i)), r.CallFd())
			m.tell(vhostuser.MsgSetVringKick, vhostusertest.U64(uint64(i)), r.KickFd())
		}
	}
	if !r.running || r.disabled {
		m.tell(vhostuser.MsgSetVringEnable, vhostusertest.State(uint32(i), 1))
	}
	r.running, r.disabled, r.armed = true, false, false
}

// placeRing says where ring i is, and whether what is written there is logged.
func (m *machine) placeRing(i int) {
	c := m.rings[i].Config()
	addr := vhostuser.VringAddr{Index: uint32(i), Desc: userAddr(c.Desc), Avail: userAddr(c.Avail), Used: userAddr(c.Used)}
	if m.log != nil {
		addr.Flags, addr.Log = vhostuser.VringFlagLog, c.Used
	}
	m.tell(vhostuser.MsgSetVringAddr, addr.AppendTo(nil))
}

// stopRing stops ring i and waits until it is known where.
func (m *machine) stopRing(i int) {
	r := m.rings[i]
	if m.frontend < 0 || !r.running {
		return
	}
	m.tell(vhostuser.MsgGetVringBase, vhostusertest.State(uint32(i), 0))
	r.running = false
	m.waits = m.answeredAll
}

// stopOrStart stops a ring, or starts it where it stopped.
func (m *machine) stopOrStart(p *program) {
	i := p.below(len(m.rings))
	if m.rings[i].running {
		m.stopRing(i)
	} else {
		m.startRing(i)
	}
}

// enable disables a ring, or enables it.
func (m *machine) enable(p *program) {
	i := p.below(len(m.rings))
	r := m.rings[i]
	if !r.running {
		return
	}
	if r.disabled {
		m.startRing(i)
		return
	}
	r.disabled = true
	m.tell(vhostuser.MsgSetVringEnable, vhostusertest.State(uint32(i), 0))
}

// passNotifier passes a descriptor of a ring again, or says that there is none to
// kick by.
func (m *machine) passNotifier(p *program) {
	i, what := p.below(len(m.rings)), p.below(3)
	r := m.rings[i]
	if !r.running || m.inBand {
		return
	}
	switch what {
	case 0:
		m.tell(vhostuser.MsgSetVringCall, vhostusertest.U64(uint64(i)), r.CallFd())
	case 1:
		m.tell(vhostuser.MsgSetVringKick, vhostusertest.U64(uint64(i)), r.KickFd())
	case 2:
		m.tell(vhostuser.MsgSetVringKick, vhostusertest.U64(uint64(i)|uint64(vhostuser.VringNoFd)))
	}
}

// passMemory passes the guest's memory, as a whole or piece by piece.
func (m *machine) passMemory() {
	if m.protocol&vhostuser.ProtocolConfigureMemSlots == 0 {
		m.tell(vhostuser.MsgSetMemTable, vhostuser.MemRegions(m.mem.Regions()).AppendTo(nil), m.mem.Fds()...)
		return
	}
	for i, r := range m.mem.Regions() {
		m.addRegion(r, m.mem.Fds()[i])
	}
}

func (m *machine) addRegion(r guestmem.Region, fd int) {
	m.tell(vhostuser.MsgAddMemReg, vhostuser.SingleMemRegion(r).AppendTo(nil), fd)
}

// passMemoryAgain replaces the memory by the same; with slots, the region that the
// rings are in, which rest meanwhile for a number of turns.
func (m *machine) passMemoryAgain(p *program) {
	turns := p.below(4)
	if m.gone || m.frontend < 0 {
		return
	}
	if m.protocol&vhostuser.ProtocolConfigureMemSlots == 0 {
		m.passMemory()
		return
	}
	first, fd := m.mem.Regions()[0], m.mem.Fds()[0]
	m.tell(vhostuser.MsgRemMemReg, vhostuser.SingleMemRegion(first).AppendTo(nil))
	m.turns = turns
	m.tasks = append(m.tasks, func() { m.addRegion(first, fd) })
}

// newDriver stops all rings and starts fresh ones.
func (m *machine) newDriver(reset bool) {
	if m.drivers == maxDrivers {
		return
	}
	m.drivers++
	for i := range m.rings {
		m.tasks = append(m.tasks, func() { m.stopRing(i) })
	}
	m.tasks = append(m.tasks, func() {
		if m.hostile || m.frontend < 0 {
			return
		}
		m.leave()
		if reset {
			m.tell(vhostuser.MsgResetDevice, nil)
			m.acknowledge()
		}
		m.readConfig()
		m.cid = m.configured
		for i, r := range m.rings {
			m.rings[i] = m.newRing(i, r)
		}
		m.postEvents()
		m.startRings()
	})
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
	ours, theirs := m.socketPair()
	defer unix.Close(theirs)
	d := vhostuser.DeviceState{Direction: vhostuser.TransferSave, Phase: vhostuser.TransferStopped}
	state := m.saved
	if kind == 2 {
		state = p.take(p.below(256))
	}
	if kind > 0 {
		d.Direction = vhostuser.TransferLoad
		unix.Write(ours, state)
		m.leave() // the guest of the state is another one
	}
	m.tell(vhostuser.MsgSetDeviceStateFd, d.AppendTo(nil), theirs)
	m.tell(vhostuser.MsgCheckDeviceState, nil)
	m.transfers = append(m.transfers, ours)
	m.saving = kind == 0
	if kind < 3 && kind > 0 {
		unix.Shutdown(ours, unix.SHUT_WR)
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
	// Not our end of the session: whoever holds that can keep the session from ending.
	kinds := []int{m.mem.Fds()[0], m.rings[0].KickFd(), m.rings[1].CallFd()}
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
