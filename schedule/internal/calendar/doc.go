// Package calendar says when a schedule ticks: it reads cron lines, intervals and
// single times, and computes one tick after the other. It does not wait, fire or
// store; it does no I/O beyond reading the rules of a zone in Parse, and never
// asks for the present time.
//
//	c, err := calendar.Parse("30 2 * * *", calendar.Options{Zone: "Europe/Berlin"})
//	tick, ok := c.Next(time.Now())
//
// # What Parse reads
//
//	30 2 * * *               minute, hour, day of month, month, day of week
//	15 30 2 * * *            the same with seconds in front
//	@yearly @annually        0 0 1 1 *
//	@monthly                 0 0 1 * *
//	@weekly                  0 0 * * 0
//	@daily @midnight         0 0 * * *
//	@hourly                  0 * * * *
//	@every 1h30m             whole seconds, from 1s on, counted from Options.Anchor
//	@at 2026-03-29T02:30:00Z once, an RFC 3339 time
//	CRON_TZ=Europe/Berlin …  a zone in front of any of these; TZ= means the same
//
// A field is a *, a number, a range (9-17), a step (*/15, 9-17/2, 5/15: from 5 on)
// or a list of these (0,30); ? means *. Months may be JAN to DEC, days of the week
// SUN to SAT; Sunday is 0. When both the day of month and the day of week are
// restricted, a day that fits either will do, as in crontab(5). Of the two only a
// plain * is no restriction: */2 is one, as in github.com/robfig/cron/v3, which
// parses the fields, and unlike in Vixie cron.
//
// # Zones
//
// A zone is an IANA name. Its rules are those of the system or, where that has
// none, those that are linked into the program (package time/tzdata, about 450 kB).
// Processes whose rules differ compute different ticks.
//
// # When clocks change
//
// A line that ticks in every hour of the day (its hours are *, or 0-23) is an
// interval line: it ticks whenever the clock on the wall fits, so
// */15 * * * * ticks every quarter of an hour of elapsed time while clocks go
// forward or back, and the policies do not matter to it. All other lines, those
// of hour steps such as */2 included, are at fixed hours:
//
//   - Times in the hole that clocks leave when they go forward do not exist. With
//     RunAfter, the default, the line ticks once at the end of the hole, in place of
//     the first time that it has in there. More times in the same hole, and all of
//     them if the line ticks at the end of the hole anyway, are merged into that
//     tick. With Skip all are left out.
//   - Times in the hour that is repeated when clocks go back tick at their first
//     occurrence and, with Twice, at the second.
//
// What is left out is told by Skipped. A hole or a repetition is any change of a
// zone's offset, whatever its cause and length: the half hours of Lord Howe, the
// day that Samoa left out in 2011.
//
// The rule is that of cron(8) of ISC cron 4.1 and cronie: changes are handled
// specially for jobs that run at specific times or less often than every hour, and
// those that run more often are scheduled normally. There are three differences.
// Cron runs a job once for each of its times in a hole, and all of these at one
// instant, which a tick's nominal time could not tell apart. It decides by a * in
// the minutes, too, so that */15 2 * * * would tick eight times in a repeated hour
// in spite of Once. And it takes a change of three hours or more for a correction
// of the clock, which a rule of a zone never is.
//
// # Bounds
//
// There are no ticks before 1970 and none from 2100 on (UTC). Next looks at no more
// than the days and the changes of the zone up to there.
package calendar
