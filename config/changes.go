package config

// Changes are the names of options that have another value in a new
// configuration.
type Changes struct {
	Live    []string // they can apply at once
	Waiting []string // they cannot, while that lasts which they are for
}

// Changes returns what is different in to. What waits, waits for the end of the
// frontend's session.
func (v *VM) Changes(to *VM) Changes {
	return changes(func(o *option) bool { return o.vm != nil && o.ofVM(v) != o.ofVM(to) })
}

// Changes returns what is different in to, VMs aside. What waits, waits for
// another start of the program.
func (d *Daemon) Changes(to *Daemon) Changes {
	return changes(func(o *option) bool { return o.daemon != nil && o.ofDaemon(d) != o.ofDaemon(to) })
}

func changes(differ func(o *option) bool) (c Changes) {
	_ = eachOption(func(o *option) error {
		switch {
		case !differ(o):
		case o.live:
			c.Live = append(c.Live, o.name)
		default:
			c.Waiting = append(c.Waiting, o.name)
		}
		return nil
	})
	return c
}
