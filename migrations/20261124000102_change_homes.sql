-- Whose page it is, is asked anew each time that it is shown. Older processes still read the login.

alter table home alter column login set default '';
