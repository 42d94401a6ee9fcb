"""The wordings of questions and answers, by kind of question and by situation.

{name}: a dimension; {level}, {number}: its level word and score; {faults}: graded fault words; {place}: their
place; {asked}, {shown}: a word of the prompt, and what the picture shows instead.
"""

from mint_iqa.vocabulary import FaultName

REMEDIES: dict[FaultName, tuple[str, ...]] = {
    "blur": ("generate it again with crisper edges", "ask for sharp focus", "sharpen it"),
    "noise": ("use more sampling steps", "clean it with a denoiser"),
    "compression": ("save the original with less loss", "export a lossless file"),
    "darkness": ("ask for more light", "raise the exposure", "brighten it"),
    "pixelation": ("generate it at a higher resolution", "use a larger size"),
    "malformation": ("try another seed", "repaint the affected parts"),
}

QUESTION_WORDINGS: dict[str, tuple[str, ...]] = {
    "quality": (
        "How good is the quality?", "What do you think of the image quality?",
        "Rate the quality of this picture.", "Is the quality all right?", "Tell me about the quality.",
        "Does it look technically clean?",
    ),
    "authenticity": (
        "How authentic does it look?", "Does this picture look real?",
        "Rate the authenticity of this picture.", "Could this pass for real?",
        "Tell me about the authenticity.", "Does anything look artificial?",
    ),
    "correspondence": (
        "How well does it match the prompt?", "Does the picture fit its prompt?",
        "Rate the correspondence.", "Tell me about the correspondence.",
        "How close is it to what I asked for?", "Did it follow my prompt?",
    ),
    "overall": (
        "Explain the scores.", "Why these scores?", "Can you explain the three scores?",
        "Sum up your assessment.", "What is your overall verdict?", "How did you arrive at these scores?",
        "Describe the picture's scores.",
    ),
    "why_low": (
        "Why does this image score low?", "What is wrong with it?", "Why is the score so low?",
        "Why did my picture get a low score?", "What went wrong here?", "What drags the score down?",
        "Why is it rated like that?", "Why isn't the score higher?",
        "What is the problem with this picture?", "Why the bad marks?",
        "What keeps it from scoring higher?", "Explain the low score.",
    ),
    "what_faults": (
        "What faults does it have?", "Which technical faults do you see?", "Are there any faults?",
        "List the faults.", "Do you see anything wrong in the picture?", "Which defects can you detect?",
    ),
    "how_bad": (
        "How bad is it?", "How serious is that?", "Is it a big problem?", "How strong is the fault?",
        "Is it really that bad?", "How much does it matter?",
    ),
    "what_to_change": (
        "What should I change?", "How can I improve it?", "How do I get a higher score?",
        "What would help?", "How do I fix this?", "What should I do differently next time?", "Any advice?",
    ),
    "is_it_the_prompt": (
        "Is the low score because of the prompt?", "Is it the prompt?", "Is my prompt to blame?",
        "Is the picture the problem, or the prompt?", "Does the score have to do with the prompt?",
        "Should I blame the prompt?",
    ),
    "number_meaning": (
        "What does a {name} of {number} mean?", "Is a {name} of {number} a lot?",
        "What is {number} for {name}?", "How should I read a {name} of {number}?",
        "The {name} is {number}. What does that tell me?", "{number} for {name}: is that high or low?",
    ),
    "unanswerable": (
        "Who made this picture?", "Which camera took this?", "Which model generated it?",
        "When was this made?", "Where was this taken?", "How much is it worth?",
        "Who owns the rights to it?", "Who is the person in it?", "What was the seed?",
        "Will people like it on social media?",
    ),
    "compare_lowest": (
        "Which of the three scores is the lowest?", "What is its weakest side?", "Which score is worst?",
        "Where does it do worst?", "Which score should I work on first?",
    ),
    "compare_highest": (
        "Which of the three scores is the highest?", "What is its strongest side?", "Which score is best?",
        "Where does it do best?", "What does it do well?",
    ),
    "where": (
        "Where is the fault?", "Where do you see that?", "Which part of the picture is affected?",
        "Is it the whole picture or only a part?", "Where should I look?",
    ),
    "what_is_missing": (
        "What is missing from the picture?", "Which word of the prompt does it not show?",
        "What does it not show?", "What did it leave out?", "Which part of the prompt was ignored?",
    ),
}  # fmt: skip
WHY_LOW_ABOUT = (
    "Why is the {name} low?", "Why is the {name} not higher?", "What lowers the {name}?",
    "Explain the low {name}.",
    "Why did the {name} come out like that?", "What is wrong with the {name}?",
)  # fmt: skip
SHOWS_IT = (
    "Does it show what the prompt says?", "Does the picture show what I asked for?",
    "Did it leave anything out?",
    "Is everything from the prompt there?", "Is this what the prompt asks for?",
)  # fmt: skip

ANSWERS: dict[str, tuple[str, ...]] = {
    "fault_low": (
        "The {name} is {level} because the picture is {faults}.",
        "The {name} is {level}: look closely and you can see that the picture is {faults}.",
        "The picture is {faults}, and that is why the {name} is {level}.",
        "I rate it low here: the {name} is {level}, since the picture is {faults}.",
        "The {name} is {level}. The reason you can check by eye: the picture is {faults}.",
    ),
    "fault_high": (
        "The {name} is {level}, although the picture is {faults}.",
        "The {name} is {level} on the whole, even if the picture is {faults}.",
        "The picture is {faults}, yet it takes little away: the {name} is {level}.",
        "The {name} is {level}. The one thing to mention: the picture is {faults}.",
    ),
    "clean_low": (
        "The {name} is {level}, but none of the faults I can detect explains it.",
        "The {name} is {level}. I can't name the cause: none of the faults I can detect explains it.",
        "The {name} is {level}; none of the faults I can detect explains why it is not higher.",
        "I see that the {name} is {level}, yet none of the faults I can detect explains it.",
    ),
    "clean_high": (
        "The {name} is {level}, and no fault that would lower it stands out.",
        "The {name} is {level}: I can detect nothing that would lower it.",
        "The {name} is {level}. None of the faults that could lower it stands out.",
        "No fault that counts here stands out to me, and the {name} is {level}.",
    ),
    "not_low": (
        "It is not low: the {name} is {level}, which is the upper part of the scale.",
        "I would not call it low. The {name} is {level}, so there is little to explain.",
        "The {name} is not low at all; in fact the {name} is {level}.",
        "There is no low score to explain here, because the {name} is {level}.",
    ),
    "prompt_missed": (
        "The correspondence is {level}: the picture does not show what the prompt asks for.",
        "The picture does not show what the prompt asks for, so the correspondence is {level}.",
        "The correspondence is {level} because what the prompt asks for is not what the picture shows.",
        "It misses what was asked for: the correspondence is {level}, and the picture and its prompt differ.",
    ),
    "prompt_part": (
        "The correspondence is {level}: the picture shows only part of what the prompt asks for.",
        "The picture shows part of what the prompt asks for and misses part; the correspondence is {level}.",
        "In part: the correspondence is {level}, since some of what the prompt asks for is missing.",
        "It follows the prompt in part only, which is why the correspondence is {level}.",
    ),
    "prompt_shown": (
        "The correspondence is {level}: the picture shows what the prompt asks for.",
        "The picture shows what the prompt asks for, so the correspondence is {level}.",
        "It follows the prompt well, and that is why the correspondence is {level}.",
        "What the prompt asks for can be seen in the picture; the correspondence is {level}.",
    ),
    "unrated": (
        "I have no value for this one: the {name} is {unrated}.",
        "The {name} is {unrated}, so I can't say anything reliable about it.",
        "There is nothing to report on that, because the {name} is {unrated}.",
        "That question can't be answered at the moment; the {name} is {unrated}.",
    ),
    "number": (
        "Scores run from 0 to 100, higher is better. The {name} is {level}, as from {low} to {high}.",
        "At {number} out of 100 the {name} is {level}, which covers {low} to {high}. Higher is better.",
        "It means that the {name} is {level}. That word stands for {low} to {high} out of 100.",
        "On a scale from 0 to 100, where higher is better, {number} says that the {name} is {level}.",
    ),
    "unanswerable": (
        "I can't tell that from the picture. I can rate its quality, authenticity and fit to its prompt.",
        "The picture does not say. Ask me about its quality, its authenticity or its prompt instead.",
        "That is not something I can see. I can explain its quality, authenticity and correspondence.",
        "I don't know, and won't guess. I only judge quality, authenticity and correspondence.",
        "Nothing in the picture tells me that. I can say what lowers its scores and what you could change.",
    ),
    "everywhere": (
        "Everywhere: all of the picture is {faults}, not just a part of it.",
        "It is not in one place. The whole of the picture is {faults}.",
        "All over: from edge to edge the picture is {faults}.",
        "There is no single spot to point at, since the whole picture is {faults}.",
    ),
    "somewhere": (
        "Look at {place} of the picture: there it is {faults}, and not elsewhere.",
        "In one place only: {place} of the picture is {faults}.",
        "It is {place} of the picture that is {faults}; the rest of it is not.",
        "You find it at {place} of the picture, which is {faults}.",
    ),
    "nowhere": (
        "There is no place to point at: none of the faults I look for stands out.",
        "I can't point at anything, since no fault that I know of stands out.",
        "Nowhere that I could name. I can detect no fault in any part of it.",
    ),
    "exchanged": (
        'The prompt asks for "{asked}", but the picture shows "{shown}": so the correspondence is {level}.',
        'It shows "{shown}" where the prompt says "{asked}"; that is why the correspondence is {level}.',
        'One word does not fit: "{asked}", as the picture shows "{shown}". The correspondence is {level}.',
    ),
    "exchanged_unrated": (
        'The prompt asks for "{asked}", but the picture shows "{shown}" in its place.',
        'It shows "{shown}" where the prompt says "{asked}"; the rest of the prompt fits.',
        'What does not fit is one word: "{asked}" in the prompt, "{shown}" in the picture.',
    ),
    "lowest": (
        "The lowest of the rated scores is the {name}: the {name} is {level}.",
        "It is weakest in one place: the {name} is {level}, and nothing else is lower.",
        "The {name} comes out lowest. In words, the {name} is {level}.",
        "Of the scores I can give, the {name} is the lowest; the {name} is {level}.",
    ),
    "highest": (
        "The highest of the rated scores is the {name}: the {name} is {level}.",
        "It is strongest in one place: the {name} is {level}, and nothing else is higher.",
        "The {name} comes out highest. In words, the {name} is {level}.",
        "Of the scores I can give, the {name} is the highest; the {name} is {level}.",
    ),
    "nothing_rated": (
        "None of the three scores is rated for this picture, so there is nothing to compare.",
        "I have no rated score for this picture, and so I can't say more about it.",
        "There is no score for this picture yet, so that question has to wait.",
        "Without a single rated score there is nothing that I could tell you here.",
    ),
}  # fmt: skip

# Sentences that several kinds of answers contain.
SEEN = (
    "Look closely: the picture is {faults}.", "By eye, the picture is {faults}.",
    "Visibly, the picture is {faults}.", "As seen, the picture is {faults}.",
)  # fmt: skip
UNEXPLAINED = ("None of the faults I can detect explains it.", "I can detect no fault that explains it.")
CLEAN = (
    "No technical fault stands out in it.", "None of the faults I look for stands out.",
    "I can detect no fault in it.", "No fault that I know of stands out.",
)  # fmt: skip
MISSED = ("The picture does not show what the prompt asks for.", "It does not show what the prompt asks for.")
HALF_MISSED = (
    "It shows only part of what the prompt asks for.",
    "Part of what the prompt asks for is missing.",
)
NOT_LOW = (
    "It does not score low at all.",
    "I would not call this a low score.",
    "There is no low score here.",
)
STRENGTH = (
    "I would call that a {weight} flaw.", "That is a {weight} flaw.",
    "The strongest fault is a {weight} one.",
    "All in all, a {weight} flaw.",
)  # fmt: skip
WEIGHTS = {"slightly": "small", "clearly": "plain", "heavily": "serious"}
REWORD = (
    "Put the prompt in simpler, more concrete words.", "Shorten the prompt and name the main subject first.",
    "Try the prompt again with another seed, or reword it.",
    "Reword the prompt so that it asks for one thing.",
)  # fmt: skip
TRY_AGAIN = (
    "I would try another seed and compare the scores.",
    "Generating it again with other settings is worth a try.",
    "Try again with another seed or model and compare.", "All I can suggest is another seed or more steps.",
)  # fmt: skip
LEAVE_IT = (
    "There is nothing I would change.", "I would leave it as it is.", "No change is needed.",
    "I see no reason to change anything.",
)  # fmt: skip
NOT_THE_PROMPT = ("No, not the prompt.", "The prompt is not the reason.", "No, I would not blame the prompt.")
THE_PROMPT = ("Yes, in part at least.", "Yes, the prompt plays a part.", "In part, yes.")
