package device

import (
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

const pageSize = 4096 // VHOST_LOG_PAGE

// changeLog begins a log of dirty pages, or passes a new one, or ends it.
func (m *machine) changeLog(p *program) {
	on := p.below(3) > 0
	if m.frontend < 0 {
		return
	}
	m.log, m.logging = nil, nil
	if on {
		last := memory[len(memory)-1]
		m.log = vhostusertest.NewDirtyLog(m.t, (last.GuestAddr+last.Size)/(8*pageSize), 0)
		m.baseline.fds++
		m.baseline.logs++
		m.tell(vhostuser.MsgSetLogBase, m.log.Region().AppendTo(nil), m.log.Fd())
	}
	m.acknowledge()
	for i, r := range m.rings {
		if r.running {
			m.placeRing(i)
		}
	}
	m.answer()
	m.tasks = append(m.tasks, func() {
		m.look() // what was used before need not be in the log
		m.logging = m.log
	})
}

// checkLogged checks that the log has what the device wrote for a chain: n bytes at
// gpa, and an entry of the used ring.
func (m *machine) checkLogged(r *ring, gpa uint64, n uint32) {
	if m.logging == nil || m.wild {
		return
	}
	dirty := m.logging.Pages()
	for page := gpa &^ (pageSize - 1); n > 0 && page < gpa+uint64(n); page += pageSize {
		if !dirty[page] {
			m.t.Fatalf("%d bytes were written at %#x, page %#x is not in the log", n, gpa, page)
		}
	}
	if c := r.Config(); !c.Packed && !dirty[c.Used&^(pageSize-1)] {
		m.t.Fatalf("the used ring at %#x is not in the log", c.Used)
	}
}
