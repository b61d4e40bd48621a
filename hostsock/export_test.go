package hostsock

const LockPatience = lockPatience

func (l *Listener) Exchange(path string, kind int) error { return l.exchange(path, kind) }
