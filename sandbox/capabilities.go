package sandbox

import (
	"os"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// keep are the capabilities that a daemon goes on to use, where it has them: to
// connect to a host program's socket whose mode would not let it, and to give
// socket files their owner and mode.
var keep = []cap.Value{cap.DAC_OVERRIDE, cap.CHOWN, cap.FOWNER}

// dropCapabilities gives up all capabilities but keep, and ever gaining others
// by executing a file. It returns those that are left.
func dropCapabilities() (left string, err error) {
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return "", os.NewSyscallError("prctl", err)
	}
	had := cap.GetProc()
	if err := emptyBounding(had); err != nil {
		return "", os.NewSyscallError("prctl", err)
	}
	// The inheritable ones go, and the ambient ones with them (capabilities(7)).
	some := cap.NewSet()
	for _, vector := range []cap.Flag{cap.Permitted, cap.Effective} {
		for _, value := range keep {
			has, err := had.GetFlag(vector, value)
			if err != nil {
				return "", err
			}
			if err := some.SetFlag(vector, has, value); err != nil {
				return "", err
			}
		}
	}
	if err := some.SetProc(); err != nil {
		return "", os.NewSyscallError("capset", err)
	}
	return some.String(), nil
}

// emptyBounding empties the bounding set if the process may. If not, that set
// is of no use without new privileges.
func emptyBounding(had *cap.Set) error {
	if may, err := had.GetFlag(cap.Effective, cap.SETPCAP); err != nil || !may {
		return err
	}
	for value := range cap.MaxBits() {
		if err := cap.DropBound(value); err != nil {
			return err
		}
	}
	return nil
}
