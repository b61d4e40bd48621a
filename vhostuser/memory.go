package vhostuser

import (
	"cmp"
	"errors"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// maxMemSlots is how many regions a guest may have. QEMU caps what it is told at
// 512 and refuses memory beyond it.
const maxMemSlots = 509

var errNoSlot = errors.New("all memory slots are taken")

// setMemTable serves VHOST_USER_SET_MEM_TABLE: the whole table is replaced or,
// on error, stays. Nothing is left of the old mappings when it returns.
func (s *session) setMemTable(m *message) (err error) {
	regions, err := parseMemRegions(m.payload)
	if err != nil {
		return err
	}
	if len(m.fds) != len(regions) {
		return errFdCount
	}
	table, err := guestmem.Map(regions, m.fds)
	if err != nil {
		return err
	}
	unused := table // until it took the place of the old one
	defer func() { err = cmp.Or(err, unused.Close()) }()
	// Rings that stop look at the old memory, which may be gone; then the session
	// ends with all of its rings in the old table.
	for _, r := range s.rings {
		r.leave(table)
	}
	for _, r := range s.rings {
		r.move(table)
	}
	unused, s.memory = s.memory, table
	return nil
}

func (s *session) getMaxMemSlots(*message) ([]byte, error) {
	return u64Payload(maxMemSlots), nil
}

// addMemReg serves VHOST_USER_ADD_MEM_REG. What is mapped stays where it is, so
// running rings do not notice.
func (s *session) addMemReg(m *message) error {
	if len(m.fds) != 1 {
		return errFdCount
	}
	if s.memory.Len() >= maxMemSlots {
		return errNoSlot
	}
	return s.memory.Add(parseSingleRegion(m.payload), m.fds[0])
}

// remMemReg serves VHOST_USER_REM_MEM_REG. Rings that lie in the region stop
// while they still have their memory; they run again once it is back.
func (s *session) remMemReg(m *message) error {
	region := parseSingleRegion(m.payload)
	if !s.memory.Has(region) {
		return guestmem.ErrNoRegion
	}
	for _, r := range s.rings {
		if r.parts.touches(region, r.shape()) {
			r.forget()
		}
	}
	return s.memory.Remove(region)
}
