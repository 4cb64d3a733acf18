package cli

import (
	"fmt"
	"time"
)

// progressEvery is how often a line of progress changes.
const progressEvery = 100 * time.Millisecond

// progress shows on a terminal how far something has come, in one line that is
// written over. One goroutine uses it.
type progress struct {
	app   *app
	shown time.Time
}

// show shows a text, unless it has just shown one.
func (p *progress) show(format string, args ...any) {
	if !p.app.env.ErrTerminal || p.app.json || time.Since(p.shown) < progressEvery {
		return
	}
	p.shown = time.Now()
	fmt.Fprintf(p.app.env.Err, "\r\x1b[K"+format, args...)
}

// end takes the line away.
func (p *progress) end() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.app.env.Err, "\r\x1b[K")
		p.shown = time.Time{}
	}
}
