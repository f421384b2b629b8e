-- Names that look alike count as one name: what they have in common (UTS 39), computed by the program. Null in rows of
-- the version before, until their person appears again.

ALTER TABLE users ADD COLUMN username_skeleton TEXT;

CREATE UNIQUE INDEX users_username_skeleton_unique ON users (username_skeleton);
